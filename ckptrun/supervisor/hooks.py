"""What the hooks of a run are told of it, and what of theirs stays with its checkpoints.

Dumps, restores and the machine's `RunHooks` become calls of `ckptrun.hooking`. Used by the loop and its workers.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptrun.core.restart import words
from ckptrun.errors import CkptrunError, HookError
from ckptrun.hooking.contract import CLOSES, Checkpoint, Occasion, Phase
from ckptrun.hooking.phases import Hooks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ckptrun.core.commands import RestoreJob, RunHooks, TakeCheckpoint
    from ckptrun.core.events import Outcome
    from ckptrun.core.model import Exit, Json
    from ckptrun.hooking.bracket import Bracket
    from ckptrun.hooking.contract import Hook
    from ckptrun.supervisor.facts import Facts
    from ckptrun.supervisor.incarnation import Incarnation
    from ckptrun.supervisor.staged import Staged

REMEMBERED = 32
"""Checkpoints of this run whose commit is awaited: those in local memory and a few more."""


class RunsHooks:
    """The hooks of one run, from the run's side.

    Args:
        hooks: none unless told.
        standby: one that may join them.
    """

    def __init__(self, hooks: Hooks | None = None, standby: Standby | None = None) -> None:
        self._hooks = hooks or Hooks()
        self._standby = standby
        self._known: dict[str, tuple[Checkpoint, Mapping[str, dict[str, Json]]]] = {}

    @property
    def any(self) -> bool:
        """Whether there are hooks at all."""
        return bool(self._hooks.hooks)

    def checkpoint(self, command: TakeCheckpoint, incarnation: Incarnation) -> Around:
        """Return what surrounds a dump."""
        checkpoint = Checkpoint(command.id, command.trigger.value, time.time())
        if self._standby and self._standby.needed(_pids(incarnation)):
            self._join(self._standby)
        return self._around(Phase.PRE_CHECKPOINT, incarnation, checkpoint, {})

    def restore(self, command: RestoreJob, incarnation: Incarnation, facts: Facts, created: float) -> Around:
        """Return what surrounds a restore."""
        checkpoint = Checkpoint(command.checkpoint, facts.trigger, created)
        if self._standby and self._standby.name in facts.hooks:
            self._join(self._standby)
        return self._around(Phase.PRE_RESTORE, incarnation, checkpoint, facts.hooks)

    def _join(self, standby: Standby) -> None:
        """Have a hook that stood by take part for the rest of the run.

        Raises:
            HookError: it cannot; an older checkpoint would not help.
        """
        try:
            hook = standby.make()
        except CkptrunError as error:
            raise HookError(str(error)) from error
        self._standby = None
        self._hooks.add(hook)

    def remember(self, checkpoint: Checkpoint, data: Mapping[str, dict[str, Json]]) -> None:
        """Note what is stored with a checkpoint of this run, for its commit."""
        self._known[checkpoint.id] = (checkpoint, data)
        for old in list(self._known)[:-REMEMBERED]:
            del self._known[old]

    def command(self, command: RunHooks, incarnation: Incarnation | None) -> None:
        """Have the hooks of a phase run that nothing waits for; they run one after another."""
        phase = Phase(command.phase)
        if not self._hooks.wants(phase):
            return
        checkpoint, data = self._known.pop(command.checkpoint or "", (None, {}))
        cause = _cause(command.cause) if command.cause else None
        occasion = _occasion(phase, incarnation, checkpoint)
        self._hooks.later(replace(occasion, cause=cause, kept=command.kept), data)

    def end(self, end: Exit, incarnation: Incarnation | None, *, final: bool) -> None:
        """Run the hooks of the run's end. Waits for them.

        Args:
            end: how it ends.
            incarnation: the last one, if it was this run's.
            final: whether nothing of the run can be restored any more.
        """
        occasion = _occasion(Phase.ON_EXIT, incarnation, None)
        self._hooks.later(replace(occasion, exit={"by": end.by, "code": end.code, "final": final}))
        self.wait()

    def hand_over(self, incarnation: Incarnation | None) -> None:
        """Have the hooks that take messages run for what waits at the job's end. Waits for them."""
        self._hooks.hand_over(_occasion(Phase.POST_COMMIT, incarnation, None))

    def wait(self) -> None:
        """Wait until all that was commanded is through, and what a dump or restore has begun is closed."""
        if self.any:
            self._hooks.settle()

    def _around(
        self,
        phase: Phase,
        incarnation: Incarnation,
        checkpoint: Checkpoint,
        data: Mapping[str, dict[str, Json]],
    ) -> Around:
        occasion = Occasion(phase)
        if self._hooks.wants(phase, CLOSES[phase]):
            occasion = _occasion(phase, incarnation, checkpoint)
        return Around(self, self._hooks.bracket(occasion, data), incarnation, checkpoint, CLOSES[phase])


@dataclass(frozen=True, slots=True)
class Standby:
    """A hook that nobody asked for, and that joins in once the job needs it.

    Args:
        name: its.
        needed: whether these processes need it; asked before every checkpoint.
        make: returns it.
    """

    name: str
    needed: Callable[[Sequence[int]], bool]
    make: Callable[[], Hook]


@dataclass(frozen=True, slots=True)
class Around:
    """What surrounds one dump or one restore.

    Args:
        run: whose hooks.
        bracket: see `Bracket`.
        incarnation: of which job.
        checkpoint: which.
        closing: the phase that closes it.
    """

    run: RunsHooks
    bracket: Bracket
    incarnation: Incarnation
    checkpoint: Checkpoint
    closing: Phase

    def open(self, given_up: Callable[[], bool], *, holding: bool | None = None) -> None:
        """Run the opening hooks; see `Bracket.open`.

        Raises:
            HookError: one of them says no.
        """
        self.bracket.open(given_up, holding=holding)

    def close(self, error: str | None = None) -> None:
        """Run the closing hooks, with how it went; does nothing the second time.

        Raises:
            HookError: it went well, one of them failed, and that is to abort it.
        """
        if not self.bracket.is_open:
            return
        occasion = _occasion(self.closing, self.incarnation, self.checkpoint)
        reason = self.bracket.close(replace(occasion, outcome={"ok": error is None, "error": error}))
        if reason and error is None:
            raise HookError(reason)

    def stored_with(self, staged: Staged) -> Staged:
        """Return a complete dump together with what the hooks want stored with it."""
        data = self.bracket.data
        if self.run.any:
            self.run.remember(replace(self.checkpoint, created=staged.snapshot.created), data)
        if not data:
            return staged
        facts = replace(staged.facts, hooks=data)
        return replace(staged, facts=facts, snapshot=replace(staged.snapshot, facts=facts.to_json()))


def _occasion(phase: Phase, incarnation: Incarnation | None, checkpoint: Checkpoint | None) -> Occasion:
    """Return an occasion with what lives of the job now."""
    if incarnation is None:
        return Occasion(phase, 0, checkpoint)
    pids = _pids(incarnation)
    alive = bool(pids)
    return Occasion(
        phase,
        incarnation.number,
        checkpoint,
        tuple(pids),
        incarnation.job_pid() if alive else None,
        incarnation.root() if alive else None,
    )


def _pids(incarnation: Incarnation) -> list[int]:
    if incarnation.opened and not incarnation.ended.is_set():
        with contextlib.suppress(OSError):
            return incarnation.pids()
    return []


def _cause(outcome: Outcome) -> dict[str, Json]:
    kind = "oom" if outcome.oom else "exit" if outcome.signal is None else "signal"
    if outcome.cause:
        kind = outcome.cause.partition(":")[0]
    return {"kind": kind, "code": outcome.code, "signal": outcome.signal, "text": words(outcome)}
