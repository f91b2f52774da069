"""Translates a job's requests into calls of `Book`, and what comes of them into replies. See docs/design/effects.md.

Everything that a job sends is doubted: it is the user's program, and its words reach a ledger that outlives it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

from ckptrun.effects.calls import Call, Do, scope
from ckptrun.effects.model import Kind
from ckptrun.effects.plan import Action, Step
from ckptrun.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckptrun.effects.book import Book

WAIT_SECONDS = 0.1
"""After which a job asks again about an effect that something is being done about."""
LONGEST_SECONDS = 7 * 86400.0

Reply: TypeAlias = dict[str, Any]


class Desk:
    """Answers a job's requests about effects.

    Args:
        book: the effects.
        lineage: whose, for idempotency keys.
        newest: returns the id of the newest checkpoint, or "".
        undo: has a step carried out that the job waits for; must not wait for it.
    """

    def __init__(
        self, book: Book, lineage: str, newest: Callable[[], str], undo: Callable[[Step], None]
    ) -> None:
        self.book = book
        self._lineage = lineage
        self._newest = newest
        self._undo = undo

    def answer(self, fields: Mapping[str, Any], incarnation: int) -> Reply:
        """Return the reply to one request.

        Raises:
            UsageError: the request is wrong.
            LedgerUnavailableError, FencedError: see `Book`.
        """
        match fields.get("op"):
            case "scope":
                return {"scope": scope(self._lineage, self.book.life)}
            case "begin":
                return self._begin(fields, incarnation)
            case "end":
                return {
                    "result": self.book.end(_text(fields, "key"), _text(fields, "token"), fields["result"])
                }
            case "fail":
                self.book.fail(_text(fields, "key"), _text(fields, "token"))
            case "leave":
                self.book.leave(_text(fields, "key"), _text(fields, "token"))
            case "defer":
                call = self._call(fields, incarnation, Kind.DEFERRED)
                named = isinstance(call.call, dict) and bool(call.call.get("function"))
                return {"queued": self.book.queue(call), "sender": named}
            case other:
                raise UsageError(f"this ckptrun knows no operation {other!r} of effects")
        return {}

    def _begin(self, fields: Mapping[str, Any], incarnation: int) -> Reply:
        try:
            kind = Kind(_text(fields, "kind"))
        except ValueError as error:
            raise UsageError(str(error)) from error
        if kind is Kind.DEFERRED:
            raise UsageError("a deferred effect is not begun by the job")
        begun = self.book.begin(self._call(fields, incarnation, kind))
        match begun.do:
            case Do.RETURN:
                return {"act": "return", "result": begun.result}
            case Do.UNDO:
                entry = self.book.entry(_text(fields, "key"))
                if entry is not None:
                    self._undo(Step(Action.UNDO, entry))
                return {"act": "wait", "seconds": WAIT_SECONDS}
            case Do.WAIT:
                return {"act": "wait", "seconds": WAIT_SECONDS}
            case _:
                return {"act": begun.do, "error": begun.error}

    def _call(self, fields: Mapping[str, Any], incarnation: int, kind: Kind) -> Call:
        return Call(
            _text(fields, "key"),
            kind,
            str(fields.get("token", "")),
            incarnation,
            self._newest(),
            fields.get("call"),
            seconds_of(fields),
            str(fields.get("settle", "")),
            fields.get("result"),
        )


def seconds_of(fields: Mapping[str, Any]) -> float:
    """Return how long an effect may hold checkpoints back.

    Raises:
        UsageError: that is no time.
    """
    seconds = fields.get("seconds", 60.0)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds):
        raise UsageError(f"seconds={seconds!r} is no time in seconds")
    return min(max(float(seconds), 0.001), LONGEST_SECONDS)


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise UsageError(f"a request about an effect says {name}={value!r}")
    return value
