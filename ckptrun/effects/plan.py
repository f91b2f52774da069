"""What is to be done about the entries of a ledger: at a restore (`rewind`), and at a commit or the end (`settle`).

Pure: entries in, steps out, in the order in which they are to be done. ``ckptrun restore --dry-run`` prints them,
`ckptrun.effects.book` and `settling` carry them out. A plan made again after half of it was done is its other half.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptrun.effects.model import STANDING, Kind, State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptrun.effects.model import Entry, Mark


class Action(enum.StrEnum):
    """What is to be done about one entry."""

    KEEP = "keep"
    """It stays as it is; the replay gets its result, or is told that it was sent."""
    SETTLE = "settle"
    """It stays started: the replay, if it comes to it, must find out whether it happened."""
    PEND = "pend"
    """It may have to be undone: it is, unless the replay claims it before the next checkpoint is committed."""
    CANCEL = "cancel"
    """It will not be sent: the replay queues it again."""
    RECLAIM = "reclaim"
    """A restore had gone back to before it, and this one goes to where it was done or queued: it counts again."""
    MISSING = "missing"
    """The memory restored counts on it, and it was undone since: nothing can be done but to say so."""
    UNDO = "undo"
    """Its undo is to be run."""
    SEND = "send"
    """It is to be sent by its sender."""
    HAND = "hand"
    """It has no sender: it is to be handed to the hooks of post-commit."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do."""

    action: Action
    entry: Entry


def rewind(entries: Iterable[Entry], mark: Mark) -> list[Step]:
    """Return what a restore to a checkpoint with ``mark`` means.

    Args:
        entries: those past the mark and those that are loose, in any order; others stay as they are.
        mark: the checkpoint's.
    """
    ordered = sorted(entries, key=lambda entry: _counted(entry, mark) or entry.seq)
    steps = [Step(action, entry) for entry in ordered if (action := _action(entry, mark)) is not None]
    return sorted(steps, key=lambda step: step.action is Action.MISSING)


def settle(entries: Iterable[Entry], upto: Mark | None, life: int) -> list[Step]:
    """Return what is to be done now that a checkpoint with mark ``upto`` is committed, or at the end of all (None).

    Undos come first, the newest effect's first; then what is to be sent, in the order it was queued.

    Args:
        entries: those that are loose, in any order; others are left alone.
        upto: what is committed. An entry that was made pending after that dump began has had no chance yet.
        life: the lineage's present one. Those of other lives have nobody to claim them.
    """
    ordered = sorted(entries, key=lambda entry: entry.seq)

    def due(entry: Entry, since: int) -> bool:
        return upto is None or since <= upto.seq or entry.life != life

    undos = [
        Step(Action.UNDO, entry)
        for entry in reversed(ordered)
        if (entry.pending or entry.state is State.UNDOING) and due(entry, entry.rewound)
    ]
    sends = [
        Step(Action.SEND if entry.sender else Action.HAND, entry)
        for entry in ordered
        if entry.state in {State.QUEUED, State.SENDING} and due(entry, entry.seq)
    ]
    return [*undos, *sends]


def unsent(entries: Iterable[Entry], mark: Mark) -> list[Step]:
    """Return what is sent with the next commit after a restore to ``mark``, because it was queued before that."""
    return [
        step
        for step in settle(entries, mark, mark.life)
        if step.action in {Action.SEND, Action.HAND} and step.entry.seq <= mark.seq
    ]


def _action(entry: Entry, mark: Mark) -> Action | None:
    if entry.seq <= mark.seq:
        return _covered(entry, mark)
    return _returned(entry) if _counted(entry, mark) and entry.kind is not Kind.ONCE else _past(entry)


def _counted(entry: Entry, mark: Mark) -> int:
    """Return the seq under which this memory knows an entry that others have done since; 0 if it does not."""
    known = (seq for seq, rewound in entry.past if seq <= mark.seq < rewound and entry.life == mark.life)
    return next(known, 0)


def _past(entry: Entry) -> Action | None:
    if entry.kind is Kind.COMPENSABLE and entry.state in STANDING:
        return Action.PEND
    match entry.kind, entry.state:
        case (Kind.ONCE, State.DONE) | (Kind.DEFERRED, State.SENDING | State.SENT):
            return Action.KEEP
        case Kind.ONCE, State.STARTED:
            return Action.SETTLE
        case Kind.DEFERRED, State.QUEUED:
            return Action.CANCEL
        case _:  # failed, undone, cancelled: nothing of it is in the world
            return None


def _covered(entry: Entry, mark: Mark) -> Action | None:
    """Return what is to be done about an entry that this memory knows; nothing, unless a rewind came after it."""
    if entry.rewound <= mark.seq or entry.life != mark.life:
        return None
    if entry.state in {State.UNDOING, State.UNDONE}:
        return Action.MISSING
    return Action.RECLAIM if entry.pending or entry.state is State.CANCELLED else None


def _returned(entry: Entry) -> Action | None:
    """Return what is to be done about an entry that this memory counts on, and another has claimed or done since."""
    match entry.state:
        case State.UNDOING | State.UNDONE | State.FAILED:
            return Action.MISSING
        case State.SENDING | State.SENT:
            return Action.KEEP
        case _:
            return Action.RECLAIM
