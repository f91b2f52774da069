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

    def take(self, step: Step, *, asked: bool = False) -> Entry | None:
        """Record that a step is begun, and return its entry as it is now; None if it must not be done any more.

        Args:
            step: what is to be done.
            asked: the job waits for this undo: the entry need not be pending.
        """
        with self._lock:
            entry = self._keeper.get(step.entry.key, step.entry.life)
            if entry is None or entry.seq != step.entry.seq:
                return None  # it was claimed, or begun anew
            if step.action is Action.UNDO:
                wanted = entry.pending or entry.state is State.UNDOING or asked
                wanted = wanted and entry.state in STANDING
                taken = replace(entry, state=State.UNDOING)
            else:
                wanted = entry.state in {State.QUEUED, State.SENDING}
                taken = replace(entry, state=State.SENDING)
            if not wanted:
                return None
            if taken != entry:
                self._keeper.write(taken)
            if step.action is Action.UNDO:
                self._undoing.add((entry.life, entry.key))
            return taken

    def settled(self, entry: Entry, error: str) -> None:
        """Record how the step of an entry that `take` returned went; ``error`` is empty if it went well."""
        with self._lock:
            self._undoing.discard((entry.life, entry.key))
            now = self._keeper.get(entry.key, entry.life)
            if now is None or now.state is not entry.state or now.seq != entry.seq:
                return
            if entry.state is State.UNDOING:
                state = State.UNDO_FAILED if error else State.UNDONE
            else:
                state = State.QUEUED if error else State.SENT
            self._keeper.write(replace(now, state=state, error=error))

    def dropped(self, entry: Entry) -> None:
        """Take note that nobody is at an entry's step any more: it was not to be done, or how it went is unknown."""
        with self._lock:
            self._undoing.discard((entry.life, entry.key))
