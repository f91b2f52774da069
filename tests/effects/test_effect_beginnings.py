"""What a run tells its ledger of fresh starts and restores, the first effect being late or the ledger out of reach."""

from __future__ import annotations

import dataclasses
import os
import threading
from typing import TYPE_CHECKING, Any, cast

import pytest

from ckptrun.effects.calls import Call, Do
from ckptrun.effects.ledger import open_ledger
from ckptrun.effects.model import Kind
from ckptrun.effects.worker import Surroundings
from ckptrun.errors import LedgerUnavailableError
from ckptrun.supervisor.channel import Asked
from ckptrun.supervisor.ledger import Effects, Wanted

if TYPE_CHECKING:
    from pathlib import Path

    from ckptrun.effects.book import Book
    from ckptrun.effects.ledger import Ledger


class Runs:
    """Runs of one lineage; the ledger is out of reach while its folder has another name."""

    def __init__(self, folder: Path, *, named: bool) -> None:
        self.folder = folder / "ledger"
        self.path = self.folder / "effects.sqlite"
        self.named = named

    def up(self) -> None:
        self.folder.mkdir() if not (away := self.folder.with_name("away")).exists() else away.rename(
            self.folder
        )

    def down(self) -> None:
        self.folder.rename(self.folder.with_name("away"))

    def another(self, *, finished: bool | None) -> Effects:
        wanted = Wanted(
            "train",
            lambda: open_ledger(f"sqlite://{self.path}", "train"),
            lambda: self.named or self.path.exists(),
            required=False,
            epoch=lambda: 0,
            finished=finished,
            surroundings=Surroundings({}, "/"),
        )
        unused = cast("Any", None)
        return Effects(wanted, unused, unused, lambda _text: None, lambda *_a, **_k: None)


def fresh(effects: Effects) -> None:
    """Start the job anew, and let the thread that tells the ledger come to its end: a run must not claim it later."""
    effects.fresh(1)
    idle = threading.Event()
    effects._requests.do(idle.set)
    assert idle.wait(30)


def told(effects: Effects) -> Book:
    """Return the book as a request finds it."""
    with effects._gate:
        return effects._ready()


def done(book: Book, key: str) -> str:
    begun = book.begin(Call(key, Kind.ONCE, "t", 1))
    if begun.do == Do.RUN:
        book.end(key, "t", {"value": key})
    return begun.do


def test_a_job_restored_before_its_first_effect_has_a_life_that_commits_settle(tmp_path: Path):
    runs = Runs(tmp_path, named=False)
    runs.up()
    effects = runs.another(finished=False)
    fresh(effects)
    before = {"effects": effects.mark().to_json()}
    effects.restoring(2, before)
    book = told(effects)
    assert book.queue(Call("mail", Kind.DEFERRED, "t", 2))
    assert effects.mark().life > 0  # what covers nothing would never be sent
    assert not open_ledger(f"sqlite://{runs.path}", "train").head().closed
    effects.restoring(3, before)
    assert [entry.state for entry in open_ledger(f"sqlite://{runs.path}", "train").since(0)] == ["cancelled"]


def test_a_run_that_goes_on_before_its_first_effect_has_a_life_too(tmp_path: Path):
    runs = Runs(tmp_path, named=False)
    runs.up()
    first = runs.another(finished=False)
    fresh(first)
    effects = runs.another(finished=False)
    effects.restoring(1, {"effects": first.mark().to_json()})
    assert told(effects).life > 0


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_start_that_the_ledger_was_not_told_of_is_told_after_a_restore(tmp_path: Path, elsewhere: bool):
    """Else the job would be given the results of the run that finished before it."""
    runs = Runs(tmp_path, named=True)
    runs.up()
    yesterday = runs.another(finished=None)
    fresh(yesterday)
    assert done(told(yesterday), "charge") == Do.RUN
    told(yesterday).close()
    runs.down()
    effects = runs.another(finished=True)
    fresh(effects)
    with pytest.raises(LedgerUnavailableError):
        told(effects)
    checkpoint = {"effects": effects.mark().to_json()}
    if elsewhere:
        effects = runs.another(finished=False)
    runs.up()
    effects.restoring(2, checkpoint)
    assert done(told(effects), "charge") == Do.RUN
    effects.restoring(3, checkpoint)
    assert done(told(effects), "charge") == Do.RETURN


def test_a_start_is_told_once_whoever_comes_first(tmp_path: Path):
    """A second claim of the ledger would fence the run itself."""
    runs = Runs(tmp_path, named=True)
    runs.up()
    opened: list[threading.Event] = []

    def slowly() -> Ledger:
        opened.append(threading.Event())
        opened[0].wait(0.3)  # nobody sets it: time for others to come by
        return open_ledger(f"sqlite://{runs.path}", "train")

    effects = runs.another(finished=False)
    effects._wanted = dataclasses.replace(effects._wanted, open=slowly)
    effects.fresh(1)
    assert done(told(effects), "charge") == Do.RUN
    assert done(told(effects), "charge") == Do.RETURN
    assert len(opened) == 1


def test_only_the_kernel_says_whose_undo_it_is(tmp_path: Path):
    effects = Runs(tmp_path, named=False).another(finished=False)
    call = {"function": "a:b", "user": [0, 0]}

    def signed(*user: int) -> object:
        asked = Asked("effect", {"op": "begin", "call": call}, 1, 1, lambda _reply: None, user)  # type: ignore[arg-type]
        return effects._requests.signed(asked)["call"]

    assert signed(os.getuid(), os.getgid()) == {"function": "a:b"}
    assert signed(65534, 65533) == {"function": "a:b", "user": [65534, 65533]}
