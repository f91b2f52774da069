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
    book: Book,
    upto: Mark | None,
    run: Callable[[Entry], str],
    told: Callable[[Step, str], None] = lambda _step, _error: None,
) -> Settled:
    """Undo and send what is due.

    How a step went is recorded together with the next one's beginning: one transaction for each.

    Args:
        book: the effects.
        upto: mark of the checkpoint that was committed; None at the end of the job: all is due.
        run: runs the undo or the sender of an entry; returns why it failed, or "".
        told: takes each step once it is recorded, and why it failed, or "".

    Raises:
        LedgerUnavailableError, FencedError: see `Book`.
    """
    result = Settled()
    held: set[str] = set()
    done: list[tuple[Step, Entry, str]] = []  # and not recorded yet
    at: list[Entry] = []
    try:
        for step in book.works.due(upto):
            if step.action is Action.HAND:
                continue  # the hooks' turn comes by itself
            sends = step.action is Action.SEND
            if sends and step.entry.sender in held:
                continue  # what was queued after one that cannot be sent waits for it
            at.append(step.entry)
            taken = book.works.take(step, after=[outcome[1:] for outcome in done])
            _note(result, done, told)
            del at[:-1]
            for entry in taken:
                error = run(entry)
                done.append((step, entry, error))
                if error and sends:
                    held.add(step.entry.sender)
        book.works.settled(*(outcome[1:] for outcome in done))
        _note(result, done, told)
    finally:
        for entry in at:
            book.works.dropped(entry)
    return result


def _note(result: Settled, done: list[tuple[Step, Entry, str]], told: Callable[[Step, str], None]) -> None:
    """Take over what is recorded now."""
    for step, entry, error in done:
        if error:
            result.failed[entry.key] = error
        elif step.action is Action.SEND:
            result.sent.append(entry.key)
        else:
            result.undone.append(entry.key)
        told(step, error)
    done.clear()


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
