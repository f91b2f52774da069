"""Settles the effects of a run in the background: at each commit, at the job's end, and when the job waits for an undo.

What is due says `ckptrun.effects.plan`. One thread, started with the first; part of `ckptrun.supervisor.ledger`.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
import time
from typing import TYPE_CHECKING

from ckptrun.effects.plan import Action
from ckptrun.effects.settling import carry_out, settle
from ckptrun.effects.worker import Workers
from ckptrun.errors import CkptrunError
from ckptrun.supervisor.hand import Hand

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptrun.effects.book import Book
    from ckptrun.effects.model import Entry, Mark
    from ckptrun.effects.plan import Step
    from ckptrun.effects.settling import Settled
    from ckptrun.effects.worker import Surroundings
    from ckptrun.supervisor.messages import Messages

END_TRIES = 3
"""At the job's end, what fails is tried so often, a second and more apart."""
NAMED = 10
"""Of what is not settled at once, so many are named to the user."""


class Settlement:
    """Undos and senders of one run.

    Args:
        ready: returns the book, once all that had to come first is done.
        surroundings: what workers get.
        quietly: makes something say why it failed, in place of raising.
        note: takes sentences for the user.
        record: takes events for the diary.
    """

    def __init__(
        self,
        ready: Callable[[], Book],
        surroundings: Surroundings,
        quietly: Callable[[Callable[[], object]], Callable[[], None]],
        note: Callable[[str], None],
        record: Callable[..., None],
    ) -> None:
        self._ready = ready
        self._surroundings = surroundings
        self._quietly = quietly
        self._note = note
        self._record = record
        self._alone = threading.Lock()
        self._urgent: queue.SimpleQueue[Step] = queue.SimpleQueue()
        self._hand = Hand("undos and senders")

    def commit(self, mark: Mark) -> None:
        """Settle what a checkpoint with ``mark`` covers, that is committed now; does not wait."""
        self._hand.do(self._quietly(lambda: self._settle(mark)))

    def undo(self, step: Step) -> None:
        """Undo what the job waits for, before all else that waits; does not wait for it."""
        self._urgent.put(step)
        self._hand.do(self._serve_urgent)

    def _serve_urgent(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._quietly(functools.partial(self._undo, self._urgent.get_nowait()))()

    def _undo(self, step: Step) -> None:
        with Workers(self._surroundings) as workers:
            error = carry_out(self._ready(), step, workers.run, asked=True)
        if error is not None:
            self._record("effect-failed" if error else "effect-undone", key=step.entry.key, reason=error)

    def finish(self, messages: Messages, hand_over: Callable[[], None] | None) -> None:
        """Settle everything, the job having ended well; say what could not be done.

        Args:
            messages: what hooks are given.
            hand_over: has the hooks that take messages run; None: there are none.
        """
        failed: dict[str, str] = {}
        waiting: list[Entry] = []
        for left in range(END_TRIES, 0, -1):
            try:
                failed = self._settle(None).failed
                if hand_over and messages.waiting():
                    self._quietly(hand_over)()
                waiting = messages.waiting()
            except CkptrunError as error:
                failed = {"the ledger": str(error)}
            if not failed and not (hand_over and waiting):
                break
            if left > 1:
                time.sleep(END_TRIES - left + 1.0)
        self._name(failed, "at the end of the job, effect {!r} is not settled: {}")
        if waiting:
            why = waiting[0].error or "no hook takes messages: --hook 'NAME?messages=yes'"
            count = "1 message waits" if len(waiting) == 1 else f"{len(waiting)} messages wait"
            self._note(f"at the end of the job, {count} for a hook, the first is {waiting[0].key!r}: {why}")

    def stop(self) -> None:
        """Begin nothing any more."""
        self._hand.stop()

    def _settle(self, upto: Mark | None) -> Settled:
        def told(step: Step, error: str) -> None:
            key = step.entry.key
            if not error:
                self._record("effect-undone" if step.action is Action.UNDO else "effect-sent", key=key)
            else:
                self._record("effect-failed", key=key, reason=error)
            if upto is not None:  # at the end no job waits
                self._serve_urgent()

        with self._alone, Workers(self._surroundings) as workers:
            result = settle(self._ready(), upto, workers.run, told)
        if upto is not None:
            self._name(result.failed, "effect {!r} could not be settled, the next checkpoint tries again: {}")
        return result

    def _name(self, failed: dict[str, str], sentence: str) -> None:
        """Say of the first few effects that failed why they did."""
        for key, why in list(failed.items())[:NAMED]:
            self._note(sentence.format(key, why))
        if len(failed) > NAMED:
            self._note(f"… and {len(failed) - NAMED} more effects: see 'ckptrun events'")
