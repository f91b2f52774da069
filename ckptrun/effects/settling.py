"""Carries out what `plan.settle` says, one step at a time: recorded as begun, run by a worker, recorded as done.

Whatever ends it in between, the next `settle` goes on from there. A step whose worker had run, but whose outcome was
not recorded, is run again: workers are told the effect's key, so that their target can know it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptrun.effects.plan import Action

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptrun.effects.book import Book
    from ckptrun.effects.model import Entry, Mark
    from ckptrun.effects.plan import Step


@dataclass(slots=True)
class Settled:
    """What came of it."""

    undone: list[str] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Why, by key."""


def settle(
    book: Book, upto: Mark | None, run: Callable[[Entry], str], going: Callable[[], bool] = lambda: True
) -> Settled:
    """Undo and send what is due.

    Args:
        book: the effects.
        upto: mark of the checkpoint that was committed; None at the end of the job: all is due.
        run: runs the undo or the sender of an entry; returns why it failed, or "".
        going: whether to go on; asked before each step.

    Raises:
        LedgerUnavailableError, FencedError: see `Book`.
    """
    result = Settled()
    held: set[str] = set()
    for step in book.works.due(upto):
        if not going():
            break
        if step.action is Action.HAND:
            continue  # the hooks' turn comes by itself
        name = step.entry.sender
        if step.action is Action.SEND and name in held:
            continue  # what was queued after one that cannot be sent waits for it
        error = carry_out(book, step, run)
        if error is None:
            continue
        if error:
            result.failed[step.entry.key] = error
            if step.action is Action.SEND:
                held.add(name)
        elif step.action is Action.SEND:
            result.sent.append(step.entry.key)
        else:
            result.undone.append(step.entry.key)
    return result


def carry_out(book: Book, step: Step, run: Callable[[Entry], str], *, asked: bool = False) -> str | None:
    """Do one step; return why it failed, "" if it did not, None if it was not to be done any more."""
    try:
        for entry in book.works.take(step, asked=asked):
            error = run(entry)
            book.works.settled((entry, error))
            return error
        return None
    finally:
        book.works.dropped(step.entry)
