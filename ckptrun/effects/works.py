"""What is done about effects behind the job's back, as the ledger records it: undos and sendings, begun and ended.

Part of a `Book`, whose lock it shares; called by `settling`. What is to be done is `plan.settle`'s.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptrun.effects import plan
from ckptrun.effects.model import STANDING, State
from ckptrun.effects.plan import Action

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable, Sequence

    from ckptrun.effects.keeper import Keeper
    from ckptrun.effects.model import Entry, Mark
    from ckptrun.effects.plan import Step


class Works:
    """The undos and sendings of one book. Any thread.

    Args:
        keeper: has the ledger; its errors are raised by every method that writes.
        lock: of the book.
    """

    def __init__(self, keeper: Keeper, lock: threading.RLock) -> None:
        self._keeper = keeper
        self._lock = lock
        self._undoing: set[tuple[int, str]] = set()

    def undoes(self, life: int, key: str) -> bool:
        """Whether somebody is at an effect's undo, or will be."""
        return (life, key) in self._undoing

    def expect(self, entry: Entry) -> None:
        """Take note that an effect is to be undone by whoever asks now: others wait for it."""
        self._undoing.add((entry.life, entry.key))

    def due(self, upto: Mark | None) -> list[Step]:
        """Return what is to be done; see `plan.settle`."""
        with self._lock:
            return plan.settle(self._keeper.loose(), upto, self._keeper.head.life)

    def take(self, *steps: Step, asked: bool = False, after: Sequence[tuple[Entry, str]] = ()) -> list[Entry]:
        """Record that steps are begun, in one transaction; return the entries, as they are now, of those that are.

        Args:
            steps: what is to be done. What must not be any more is left out: it was claimed, cancelled or begun anew.
            asked: the job waits for these undos: their entries need not be pending.
            after: how others went, recorded with it; see `settled`.
        """
        with self._lock:
            found = [(self._keeper.get(step.entry.key, step.entry.life), step) for step in steps]
            taken = [
                (entry, now)
                for entry, step in found
                if entry is not None and (now := _taken(entry, step, asked=asked)) is not None
            ]
            changed = self._outcomes(after) + [now for entry, now in taken if now != entry]
            if changed:
                self._keeper.write(*changed)
            entries = [now for _, now in taken]
            self._undoing.update((one.life, one.key) for one in entries if one.state is State.UNDOING)
            return entries

    def settled(self, *outcomes: tuple[Entry, str]) -> None:
        """Record, in one transaction, how the steps of entries that `take` returned went: why they failed, or ""."""
        with self._lock:
            if changed := self._outcomes(outcomes):
                self._keeper.write(*changed)

    def dropped(self, entry: Entry) -> None:
        """Take note that nobody is at an entry's step any more: it was not to be done, or how it went is unknown."""
        with self._lock:
            self._undoing.discard((entry.life, entry.key))

    def _outcomes(self, outcomes: Iterable[tuple[Entry, str]]) -> list[Entry]:
        """Return the entries as they are now that their steps have ended."""
        changed = []
        for entry, error in outcomes:
            self._undoing.discard((entry.life, entry.key))
            now = self._keeper.get(entry.key, entry.life)
            if now is None or now.state is not entry.state or now.seq != entry.seq:
                continue
            if entry.state is State.UNDOING:
                state = State.UNDO_FAILED if error else State.UNDONE
            else:
                state = State.QUEUED if error else State.SENT
            changed.append(replace(now, state=state, error=error))
        return changed


def _taken(entry: Entry, step: Step, *, asked: bool) -> Entry | None:
    """Return the entry of a step as it is while that is done; None if it must not be done any more."""
    if entry.seq != step.entry.seq:
        return None  # it was claimed, or begun anew
    if step.action is not Action.UNDO:
        wanted = entry.state in {State.QUEUED, State.SENDING}
        return replace(entry, state=State.SENDING) if wanted else None
    wanted = entry.pending or entry.state is State.UNDOING or asked
    return replace(entry, state=State.UNDOING) if wanted and entry.state in STANDING else None
