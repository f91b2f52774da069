"""A job's SDK and a supervisor's book in one process: requests and replies pass through JSON, as on the channel.

`World.tick` stands at every place where a machine may die; one of them can be chosen to be the last thing that happens.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from ckptrun.effects.book import Book
from ckptrun.effects.desk import Desk
from ckptrun.effects.settling import carry_out, settle
from ckptrun.errors import CkptrunError, FencedError, LedgerUnavailableError
from ckptrun.job import _channel
from ckptrun.job._errors import failure
from ckptrun.supervisor.messages import Messages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pytest

    from ckptrun.effects.ledger import Ledger
    from ckptrun.effects.model import Entry, Head, Mark
    from ckptrun.effects.plan import Step
    from ckptrun.effects.settling import Settled
    from ckptrun.hooking.contract import Message


class Crash(BaseException):
    """The machine is gone, at this very place."""


class Clock:
    """Dies at a chosen tick; counts them."""

    def __init__(self, last: int | None = None) -> None:
        self.ticks = 0
        self.last = last
        self.dead = False

    def tick(self) -> None:
        if self.dead:
            raise Crash
        self.ticks += 1
        if self.ticks == self.last:
            self.dead = True
            raise Crash


class TickingLedger:
    """A real ledger, with a chance to die before and after each write."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    def write(self, head: Head, entries: Sequence[Entry], known: int = 0) -> None:
        self._clock.tick()
        self._ledger.write(head, entries, known)
        self._clock.tick()


class Supervisor:
    """One run's: a book, a desk, and a worker that is a function of the test's."""

    def __init__(
        self,
        ledger: Ledger,
        epoch: int,
        work: Callable[[Entry], str] = lambda _entry: "",
        clock: Clock | None = None,
        now: Callable[[], float] | None = None,
    ) -> None:
        self.clock = clock or Clock()
        self.incarnation = 1
        self.work = work
        self.book = Book(TickingLedger(ledger, self.clock), epoch, *((now,) if now else ()))
        self.desk = Desk(self.book, "train", lambda: "", self._undo)
        self.messages = Messages("train", lambda: self.book, lambda work: work, lambda *_a, **_k: None)

    def settle(self, upto: Mark | None) -> Settled:
        return settle(self.book, upto, self._work)

    def hand_over(self, upto: Mark | None, hook: Callable[[Message], None]) -> None:
        """Hand what waits to a hook that takes it, two at a time."""
        self.messages.cover(upto)
        while batch := self.messages.take((), 2, 1 << 20):
            self.clock.tick()
            for message in batch:
                hook(message)
            self.clock.tick()
            self.messages.released([message.key for message in batch], "hook")

    def request(self, do: str, timeout: float | None = None, **fields: Any) -> dict[str, Any]:
        """Stand in for the channel's, in the job."""
        assert do == "effect"
        del timeout
        self.clock.tick()
        reply = json.loads(json.dumps(self._reply(json.loads(json.dumps(fields)))))
        self.clock.tick()
        if reply["ok"]:
            return reply
        raise failure(reply)

    def _reply(self, fields: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"ok": True, **self.desk.answer(fields, self.incarnation)}
        except CkptrunError as error:
            kinds = {FencedError: "fenced", LedgerUnavailableError: "ledger"}
            return {"ok": False, "kind": kinds.get(type(error), "usage"), "error": str(error)}

    def _undo(self, step: Step) -> None:
        carry_out(self.book, step, self._work, asked=True)

    def _work(self, entry: Entry) -> str:
        self.clock.tick()
        error = self.work(entry)
        self.clock.tick()
        return error


@contextlib.contextmanager
def under(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the SDK of this process talk to `supervisor`."""
    with monkeypatch.context() as patch:
        patch.setattr(_channel, "request", supervisor.request)
        patch.setattr(_channel, "under_ckptrun", lambda: True)
        yield
