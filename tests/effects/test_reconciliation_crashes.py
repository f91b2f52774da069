"""Reconciliation is killed at each of its lines, and once more while that is made good: it is finished anyway."""

from __future__ import annotations

import itertools
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from effectkit import Clock, Crash, Supervisor, under

from ckptrun.effects.ledger import open_ledger
from ckptrun.job import effects

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptrun.effects.model import Entry, Mark

pytestmark = pytest.mark.slow


def release() -> None:
    """An undo; never run here."""


def mail() -> None:
    """A sender; never run here."""


class Lineage:
    """A lineage whose job has died past its checkpoint, and what its undos and senders did."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder.mkdir()
        self.url = f"sqlite://{folder}/effects.sqlite"
        self.done: list[str] = []
        self.repeatable: set[str] = set()
        self.epoch = 0
        first = self.run(Clock())
        first.book.fresh()
        with under(first, monkeypatch):
            effects.deferred("early-1", 1, mail)
            effects.deferred("early-2", 2, mail)
            effects.compensable("kept", int, release)
            self.mark: Mark = first.book.mark()
            effects.compensable("a", int, release)
            effects.compensable("b", int, release)
            effects.deferred("late", 3, mail)

    def run(self, clock: Clock) -> Supervisor:
        """Return another run of the lineage's; it dies as `clock` says."""
        self.epoch += 1

        def work(entry: Entry) -> str:
            self.done.append(entry.key)
            if clock.last in {clock.ticks + 1, clock.ticks + 2}:
                self.repeatable.add(entry.key)  # it dies before this is recorded
            return ""

        return Supervisor(open_ledger(self.url, "train"), self.epoch, work, clock)

    def reconcile(self, clock: Clock) -> bool:
        """Restore, and commit the next checkpoint; return whether nothing killed it."""
        try:
            supervisor = self.run(clock)
            supervisor.book.rewind(self.mark)
            supervisor.settle(supervisor.book.mark())
        except Crash:
            return False
        return True

    def check(self) -> None:
        states = {entry.key: str(entry.state) for entry in open_ledger(self.url, "train").since(0)}
        assert states == {
            "early-1": "sent", "early-2": "sent", "kept": "done", "a": "undone", "b": "undone", "late": "cancelled"
        }  # fmt: skip
        assert list(dict.fromkeys(self.done)) == ["b", "a", "early-1", "early-2"]
        repeated = {key for key, count in Counter(self.done).items() if count > 1}
        assert repeated <= self.repeatable


@pytest.fixture
def memory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:  # the disk is not what dies here
        yield Path(folder)


def test_killed_at_each_line_it_is_finished_by_the_next_run(memory: Path, monkeypatch: pytest.MonkeyPatch):
    for first in itertools.count(1):
        lineage = Lineage(memory / str(first), monkeypatch)
        if lineage.reconcile(Clock(first)):
            lineage.check()
            break
        assert lineage.reconcile(Clock())
        lineage.check()
    assert first > 20


def test_killed_twice_it_is_finished_by_the_third_run(memory: Path, monkeypatch: pytest.MonkeyPatch):
    for first in range(1, 28, 3):
        for second in range(1, 28, 2):
            lineage = Lineage(memory / f"{first}-{second}", monkeypatch)
            lineage.reconcile(Clock(first))
            lineage.reconcile(Clock(second))
            assert lineage.reconcile(Clock())
            lineage.check()
