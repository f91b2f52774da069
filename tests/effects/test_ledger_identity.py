"""A ledger that is not the one a checkpoint counts on is known, whatever its numbers say, and said by name."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, cast

import pytest

from ckptrun.effects.book import Book
from ckptrun.effects.calls import Call, Do, scope
from ckptrun.effects.ledger import open_ledger
from ckptrun.effects.model import Claim, Kind, Mark
from ckptrun.effects.worker import Surroundings
from ckptrun.errors import LedgerLostError, LedgerUnavailableError
from ckptrun.supervisor.ledger import Effects, Wanted

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Place


class Runs:
    """Runs of one lineage, each with the ledger that lies at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.epoch = 0
        self.number = 0

    def begin(self) -> Book:
        self.epoch += 1
        self.book = Book(open_ledger(f"sqlite://{self.path}", "train"), self.epoch)
        if not self.book.life:
            self.book.fresh()
        return self.book

    def work(self, count: int) -> Mark:
        for _ in range(count):
            self.number += 1
            key = f"step-{self.number}"
            assert self.book.begin(Call(key, Kind.ONCE, key, 1)).do == Do.RUN
            self.book.end(key, key, {"value": 1})
        return Mark.from_json(self.book.mark().to_json())

    def end(self) -> None:
        self.book._keeper._ledger.close()  # what is in its log goes into the file

    def copy(self, name: str) -> Path:
        self.end()
        return shutil.copy(self.path, self.path.with_name(name))

    def put_back(self, copy: Path) -> None:
        self.end()
        copy.replace(self.path)


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    runs = Runs(tmp_path / "effects.sqlite")
    runs.begin()
    return runs


def test_a_ledger_is_the_one_of_all_its_checkpoints(runs: Runs):
    marks = [Mark(), runs.work(0), runs.work(2)]
    for _ in range(3):
        runs.begin()
        marks += [runs.work(0), runs.work(1)]
        assert [runs.book.lacks(mark) for mark in marks] == [""] * len(marks)


def test_an_old_copy_is_known_however_much_was_recorded_in_it_since(runs: Runs):
    before = runs.work(2)
    copy = runs.copy("backup")
    after = runs.work(2)
    runs.put_back(copy)
    runs.begin()
    assert "old copy" in runs.book.lacks(after)
    runs.book.rewind(after)
    now = runs.work(20)
    assert now.seq > after.seq
    runs.begin()
    assert "old copy" in runs.book.lacks(after)
    assert runs.book.lacks(before) == runs.book.lacks(now) == ""


def test_a_copy_from_before_the_run_is_known(runs: Runs):
    copy = runs.copy("backup")
    runs.begin()
    mark = runs.work(1)
    runs.put_back(copy)
    runs.begin()
    runs.work(20)
    assert "made before the checkpoint" in runs.book.lacks(mark)


def test_two_copies_that_went_different_ways_are_told_apart(runs: Runs):
    runs.work(3)
    other = Runs(runs.copy("other"))
    other.number = 100
    runs.begin()
    here = runs.work(5)
    other.begin()
    there = other.work(5)
    assert here.seq == there.seq
    assert "went another way" in runs.book.lacks(there)
    assert "went another way" in other.book.lacks(here)


def test_another_ledger_is_known_and_nothing_in_it_is_taken_for_the_jobs(runs: Runs, tmp_path: Path):
    mark = runs.work(3)
    other = Runs(tmp_path / "other.sqlite")
    other.begin()
    other.work(3)
    assert "another ledger" in other.book.lacks(mark)
    assert scope("train", other.book.life) != scope(
        "train", runs.book.life
    )  # else targets would know their keys
    other.book.rewind(mark)
    assert other.book.begin(Call("step-1", Kind.ONCE, "t", 2)).do == Do.RUN


def test_a_checkpoint_that_does_not_say_is_compared_by_its_number(runs: Runs):
    mark = runs.work(3)
    old = {"seq": mark.seq, "life": mark.life}
    assert runs.book.lacks(Mark.from_json(old)) == ""
    assert runs.book.lacks(Mark.from_json({**old, "seq": mark.seq + 1})) != ""


def test_a_checkpoint_counts_on_nothing_that_the_ledger_has_not_acknowledged(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
):
    def down(*_: Any) -> None:
        raise LedgerUnavailableError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(runs.book._keeper._ledger, "write", down)
        with pytest.raises(LedgerUnavailableError):
            runs.book.begin(Call("a", Kind.ONCE, "t", 1))
        mark = runs.book.mark()
    runs.begin()
    assert runs.book.lacks(mark) == ""


def test_claims_are_kept_in_their_order(place: Place):
    ledger = place.open()
    assert ledger.claims() == []
    head = ledger.claim(1, "first")
    ledger.write(type(head)(head.epoch, head.term, 7, 1, closed=False), [])
    place.open().claim(1, "second")
    place.open(place.lineage + "-other").claim(1, "else")
    ledger.close()
    assert place.open().claims() == [Claim("first", 0), Claim("second", 7)]


@pytest.mark.parametrize("required", [False, True])
def test_it_is_said_once_by_name_or_refused_where_it_is_required(runs: Runs, required: bool):
    copy = runs.copy("backup")
    mark = runs.work(1)
    runs.put_back(copy)
    unused, noted = cast("Any", None), list[str]()
    wanted = Wanted(
        "train",
        lambda: open_ledger(f"sqlite://{runs.path}", "train"),
        lambda: True,
        required,
        epoch=lambda: 9,
        finished=False,
        surroundings=Surroundings({}, "/"),
        name=f"sqlite://{runs.path}",
    )
    effects = Effects(wanted, unused, unused, noted.append, lambda *_a, **_k: None)
    told = {"effects": mark.to_json()}
    if required:
        with pytest.raises(LedgerLostError, match=rf"ledger sqlite://{runs.path} is not the one .* old copy"):
            effects.restoring(2, told)
        return
    effects.restoring(2, told)
    effects.restoring(3, told)
    (note,) = noted
    assert f"the effect ledger sqlite://{runs.path} is not the one that the checkpoint counts on" in note
    assert "effects may be repeated" in note
