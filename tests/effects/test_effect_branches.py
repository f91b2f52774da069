"""Restores to an older checkpoint and back again: each memory counts on what it did, whatever another did since."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from effectkit import Supervisor, under

from ckptrun.effects.ledger import open_ledger
from ckptrun.effects.plan import Action
from ckptrun.job import effects

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ckptrun.effects.model import Entry


@pytest.fixture
def worked() -> list[str]:
    """What workers did."""
    return []


@pytest.fixture
def run(tmp_path: Path, worked: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    def work(entry: Entry) -> str:
        worked.append(entry.key)
        return ""

    supervisor = Supervisor(open_ledger(f"sqlite://{tmp_path}/effects.sqlite", "train"), 1, work)
    supervisor.book.fresh()
    with under(supervisor, monkeypatch):
        yield supervisor


def release() -> None:
    """An undo, or a sender; never run here."""


def test_what_the_other_history_claimed_stays_for_the_first_one(run: Supervisor, worked: list[str]):
    book = run.book
    old = book.mark()
    effects.compensable("seat", int, release)
    new = book.mark()
    book.rewind(old)
    between = book.mark()
    effects.compensable("seat", int, release)  # the replay claims it
    other = book.mark()
    for mark in (new, new, other, new):
        book.rewind(mark)
        run.settle(book.mark())
        assert worked == []
    book.rewind(between)
    run.settle(book.mark())
    assert worked == ["seat"]
    assert [step.action for step in book.rewind(new)] == [Action.MISSING]


def test_what_the_other_history_queued_again_is_sent_for_the_first_one(run: Supervisor, worked: list[str]):
    book = run.book
    old = book.mark()
    assert effects.deferred("mail", 1, release)
    new = book.mark()
    book.rewind(old)
    assert effects.deferred("mail", 1, release)
    book.rewind(new)
    run.settle(book.mark())
    assert worked == ["mail"]


def test_what_the_other_history_never_did_is_undone_for_it(run: Supervisor, worked: list[str]):
    book = run.book
    old = book.mark()
    effects.compensable("seat", int, release)
    new = book.mark()
    book.rewind(old)
    other = book.mark()
    book.rewind(new)
    book.rewind(other)
    run.settle(book.mark())
    assert worked == ["seat"]


def test_what_was_undone_and_done_again_stays_for_the_first_history(run: Supervisor, worked: list[str]):
    book = run.book
    old = book.mark()
    effects.compensable("seat", int, release)
    new = book.mark()
    book.rewind(old)
    run.settle(book.mark())
    effects.compensable("seat", int, release)
    book.rewind(new)
    run.settle(book.mark())
    assert worked == ["seat"]
