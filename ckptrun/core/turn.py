"""One step in the making: the state and the commands so far. Lives in `ckptrun.core.machine.step` only.

The handlers change a turn in place; from outside, a step is a pure function.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptrun.core.commands import (
    NORMAL,
    AbandonDump,
    Answer,
    DropLocal,
    Finish,
    KillCapsule,
    Record,
    Say,
    WakeAt,
)
from ckptrun.core.events import JOB_ENDED
from ckptrun.core.model import Exit, RunState
from ckptrun.core.state import Phase, Stored

if TYPE_CHECKING:
    from ckptrun.core.commands import Command
    from ckptrun.core.model import Json
    from ckptrun.core.state import Checkpoint, Request, State


class Turn:
    """A step being taken.

    Args:
        state: the state before it.
        now: monotonic seconds of its event.
    """

    def __init__(self, state: State, now: float) -> None:
        self.now = max(now, state.now)
        self.state = replace(state, now=self.now)
        self.commands: list[Command] = []

    def emit(self, *commands: Command) -> None:
        """Command, in order."""
        self.commands.extend(commands)

    def change(self, **fields: Any) -> None:
        """Replace fields of the state."""
        self.state = replace(self.state, **fields)

    def say(self, level: str, text: str) -> None:
        """Speak to the user."""
        self.emit(Say(level, text))

    def record(self, event: str, **fields: Json) -> None:
        """Write into the run's diary."""
        self.emit(Record(event, fields))

    def amend(self, checkpoint: str, **fields: Any) -> None:
        """Replace fields of one checkpoint."""
        self.change(
            checkpoints=tuple(
                replace(c, **fields) if c.id == checkpoint else c for c in self.state.checkpoints
            )
        )

    def answer(self, requests: tuple[Request, ...], checkpoint: str) -> None:
        """Tell everyone who waits the id."""
        self.emit(*(Answer(r.waiter, checkpoint, None) for r in requests if r.waiter is not None))

    def disappoint(self, requests: tuple[Request, ...], error: str) -> None:
        """Tell everyone who waits why there is no checkpoint."""
        self.emit(*(Answer(r.waiter, None, error) for r in requests if r.waiter is not None))

    def discard(self, checkpoint: Checkpoint, why: str) -> None:
        """Give up what this run holds of a checkpoint; one under way to the store goes once it is there."""
        if checkpoint.stored is Stored.UPLOADING:
            return
        if checkpoint.local:
            self.emit(DropLocal(checkpoint.id))
        self.disappoint(checkpoint.requests, why)
        self.change(checkpoints=tuple(c for c in self.state.checkpoints if c.id != checkpoint.id))

    def abandon_dump(self, why: str) -> None:
        """Give up the dump in flight, if there is one."""
        dump = self.state.dump
        if dump is None or dump.abandoned:
            return
        self.emit(AbandonDump(dump.id))
        self.record("checkpoint-failed", id=dump.id, trigger=dump.trigger.value, reason=why)
        self.disappoint(dump.requests, f"checkpoint {dump.id} failed: {why}")
        self.change(dump=replace(dump, abandoned=True, requests=()))

    def incarnation_over(self) -> None:
        """Note that nothing of the newest incarnation lives any more."""
        waiters = [s.waiter for s in self.state.incarnation.sections if s.waiter is not None]
        self.emit(*(Answer(waiter, None, JOB_ENDED) for waiter in waiters))
        self.change(incarnation=replace(self.state.incarnation, alive=False, sections=()))
        self.abandon_dump(JOB_ENDED)

    def kill(self, verdict: Finish) -> None:
        """Kill the capsule; the run ends with ``verdict`` once it is gone."""
        if not self.state.incarnation.condemned:  # else it is being killed already
            self.emit(KillCapsule(self.state.incarnation.number))
        self.change(phase=Phase.ENDING, verdict=verdict)

    def finish(self, by: str, code: int, state: RunState) -> None:
        """End the run: see `conclude`."""
        self.conclude(Finish(Exit(by, code), state))

    def conclude(self, verdict: Finish, *, flush: bool = True) -> None:
        """End the run; one that is to be gone on with, once its newest checkpoint is stored or its time is over."""
        self.abandon_dump("the run has ended")
        unstored, stop = self.state.unstored, self.state.stop
        by = self.now + self.state.config.grace if stop is None else stop.kill_by
        if not flush or verdict.state is RunState.FINISHED or unstored is None or by <= self.now:
            self.end(verdict)
            return
        self.say(NORMAL, f"checkpoint {unstored.id} is still being stored; the run ends after that")
        self.disappoint(self.state.requests, "the run has ended")
        self.change(phase=Phase.FLUSHING, requests=(), verdict=verdict, flush_by=by, start_at=None)

    def end(self, verdict: Finish) -> None:
        """End the run now. Nothing lives; everyone who still waits is answered; no command follows."""
        for checkpoint in self.state.checkpoints:
            self.disappoint(checkpoint.requests, "the run ended before this checkpoint was committed")
        self.disappoint(self.state.requests, "the run has ended")
        kept = tuple(replace(c, requests=()) for c in self.state.checkpoints)
        self.change(
            phase=Phase.ENDED, checkpoints=kept, requests=(), verdict=verdict, start_at=None, flush_by=None
        )
        self.emit(verdict)

    def set_alarm(self, moments: list[float]) -> None:
        """Ask for a `Tick` at the earliest of these moments, unless the shell was told that already."""
        earliest = min(moments, default=None)
        if earliest is not None and earliest != self.state.wake:
            self.emit(WakeAt(earliest))
            self.change(wake=earliest)
