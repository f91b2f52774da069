"""What is settled in the background, with real workers: in what order, and what the user is told."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from ckptrun.effects.book import Book
from ckptrun.effects.calls import Call, Do
from ckptrun.effects.ledger import open_ledger
from ckptrun.effects.model import Kind
from ckptrun.effects.plan import Action, Step
from ckptrun.effects.worker import Surroundings
from ckptrun.supervisor.settlement import NAMED, Settlement

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MODULE = """
def send(payload): pass
def refuse(payload): raise ValueError("closed")
def undo(): pass
"""


class Bench:
    """A book and what settles it; `done` is set when all has been settled that was committed before `rest`."""

    def __init__(self, folder: Path) -> None:
        (folder / "outside.py").write_text(MODULE)
        self.place = {"executable": sys.executable, "path": [str(folder)], "cwd": str(folder), "script": None}
        self.book = Book(open_ledger(f"sqlite://{folder}/effects.sqlite", "train"), 1)
        self.book.fresh()
        self.noted: list[str] = []
        self.events: list[tuple[str, str]] = []
        self.after: Callable[[], None] = lambda: None
        self.settlement = Settlement(
            lambda: self.book, Surroundings({}, "/"), lambda work: work, self.noted.append, self._record
        )

    def _record(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields["key"]))
        self.after()

    def call(self, key: str, kind: Kind, function: str, *args: object, settle: str = "") -> Call:
        call = {"function": f"outside:{function}", "args": list(args), "kwargs": {}, "place": self.place}
        return Call(key, kind, f"token-{key}", 1, call=call, settle=settle)  # type: ignore[arg-type]

    def rest(self) -> None:
        idle = threading.Event()
        self.settlement._hand.do(idle.set)
        assert idle.wait(60)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_an_undo_that_the_job_waits_for_does_not_wait_for_all_that_is_to_be_sent(bench: Bench):
    bench.book.begin(bench.call("seat", Kind.COMPENSABLE, "undo"))
    bench.book.leave("seat", "token-seat")
    for number in range(3):
        bench.book.queue(bench.call(f"mail-{number}", Kind.DEFERRED, "send", number))

    def ask() -> None:
        bench.after = lambda: None
        assert bench.book.begin(bench.call("seat", Kind.COMPENSABLE, "undo", settle="undo")).do == Do.UNDO
        entry = bench.book.entry("seat")
        assert entry is not None
        bench.settlement.undo(Step(Action.UNDO, entry))

    bench.after = ask
    bench.settlement.commit(bench.book.mark())
    bench.rest()
    sent, undone = "effect-sent", "effect-undone"
    assert bench.events == [(sent, "mail-0"), (undone, "seat"), (sent, "mail-1"), (sent, "mail-2")]
    assert bench.book.begin(bench.call("seat", Kind.COMPENSABLE, "undo")).do == Do.RUN


def test_many_that_fail_are_not_all_named(bench: Bench):
    count = NAMED + 2
    for number in range(count):
        call = bench.call(f"mail-{number}", Kind.DEFERRED, "refuse", number)
        call.call["function"] = f"outside{number}:refuse"  # type: ignore[index,call-overload]
        call.call["place"] = {}  # type: ignore[index,call-overload]
        bench.book.queue(call)
    bench.settlement.commit(bench.book.mark())
    bench.rest()
    assert len(bench.noted) == NAMED + 1
    assert bench.noted[-1] == "… and 2 more effects: see 'ckptrun events'"
    assert len([event for event in bench.events if event[0] == "effect-failed"]) == count
