"""The run up to a stop: how an incarnation begins, runs and ends. Handlers of the machine's table.

What follows the end of a job is in `ckptrun.core.restoring`; a stop is in `ckptrun.core.stopping`.
"""

from __future__ import annotations

from dataclasses import replace
from signal import SIGKILL
from typing import TYPE_CHECKING

from ckptrun.core.commands import ERROR, NORMAL, ON_FAILURE, Finish, RunHooks, ServeJob, StartJob
from ckptrun.core.config import RestartPolicy
from ckptrun.core.events import Outcome
from ckptrun.core.incarnation import Incarnation
from ckptrun.core.model import Exit, RunState
from ckptrun.core.plans import Fresh, GoOn, candidates
from ckptrun.core.restart import words
from ckptrun.core.restoring import leave_behind, restart, restore_newest
from ckptrun.core.state import Checkpoint, Phase, Stored

if TYPE_CHECKING:
    from ckptrun.core.events import (
        Begin,
        CapsuleGone,
        Fenced,
        JobEnded,
        JobStarted,
        RestoreSucceeded,
        StartFailed,
    )
    from ckptrun.core.turn import Turn

HELD = 79


def begin(turn: Turn, event: Begin) -> None:
    """Start the first incarnation, fresh or from the newest candidate, or go on with the one there is."""
    if isinstance(event.plan, Fresh):
        _start(turn)
        return
    known = (Checkpoint(c.id, Stored.COMMITTED, c.local) for c in reversed(candidates(event.plan)))
    turn.change(checkpoints=tuple(known))
    if isinstance(event.plan, GoOn):
        number = turn.state.incarnation.number + 1
        turn.change(phase=Phase.LAUNCHING, incarnation=Incarnation(number, alive=True, outlasted=True))
        turn.emit(ServeJob(number))
    else:
        restore_newest(turn)


def job_started(turn: Turn, event: JobStarted) -> None:
    """The command runs."""
    _running(turn)
    if turn.state.incarnation.outlasted:
        turn.record("job-resumed", incarnation=event.incarnation)
        turn.say(NORMAL, "the job has run on meanwhile: it is served again")
    else:
        turn.record("job-started", incarnation=event.incarnation)


def restored(turn: Turn, event: RestoreSucceeded) -> None:
    """A restored job runs."""
    _running(turn)
    origin = turn.state.incarnation.origin
    leave_behind(turn, origin)
    turn.record(
        "job-restored",
        incarnation=event.incarnation,
        checkpoint=origin,
        age_seconds=event.age,
        cut_bytes=event.cut_bytes,
    )
    if event.retried:
        turn.record("restore-retried", checkpoint=origin, reason=event.retried)
        turn.say(NORMAL, f"the restore took two tries: {event.retried}")
    age = "" if event.age is None else f", taken {event.age:.0f} s ago"
    cut = f"; {event.cut_bytes} bytes of output are written anew" if event.cut_bytes else ""
    turn.say(NORMAL, f"the job runs again, restored from checkpoint {origin}{age}{cut}")


def start_failed(turn: Turn, event: StartFailed) -> None:
    """A command that cannot be started is not tried again; a job that could not be gone on with was killed."""
    turn.incarnation_over()
    if turn.state.incarnation.outlasted:
        turn.say(NORMAL, f"the job that ran on meanwhile could not be served and was killed: {event.error}")
        if turn.state.newest is None:
            _start(turn)
        else:
            restore_newest(turn)
        return
    turn.record("start-failed", incarnation=event.incarnation, error=event.error)
    turn.say(ERROR, event.error)
    turn.finish("ckptrun", event.exit_code, RunState.FAILED)


def job_ended(turn: Turn, event: JobEnded) -> None:
    """Decide between the end of the run and another restart."""
    _ended(turn, event.outcome)


def capsule_gone(turn: Turn, event: CapsuleGone) -> None:
    """The capsule's init was killed, and the job with it."""
    del event
    _ended(turn, Outcome(signal=9))


def fenced(turn: Turn, event: Fenced) -> None:
    """Another writer owns the lineage: nothing of this run may go on."""
    turn.record("fenced", reason=event.reason)
    turn.say(ERROR, f"the lineage was taken over: {event.reason}; the job is stopped here")
    verdict = Finish(Exit("ckptrun", HELD), RunState.INTERRUPTED)
    if turn.state.incarnation.alive:
        turn.abandon_dump("the lineage was taken over")
        turn.kill(verdict)
    else:
        turn.conclude(verdict, flush=False)


def _start(turn: Turn) -> None:
    number = turn.state.incarnation.number + 1
    turn.change(phase=Phase.LAUNCHING, incarnation=Incarnation(number, alive=True))
    turn.emit(StartJob(number))


def _running(turn: Turn) -> None:
    turn.change(
        phase=Phase.RUNNING,
        incarnation=replace(turn.state.incarnation, up_since=turn.now),
        cadence=turn.state.cadence.started(turn.now),
        transient_failures=0,
    )


def _ended(turn: Turn, outcome: Outcome) -> None:
    state = turn.state
    if outcome.signal == SIGKILL:
        outcome = replace(outcome, cause=state.incarnation.condemned)
    turn.incarnation_over()
    turn.record(
        "job-ended",
        incarnation=state.incarnation.number,
        code=outcome.code,
        signal=outcome.signal,
        oom=outcome.oom,
        **({"cause": outcome.cause} if outcome.cause else {}),
    )
    if not outcome.ok and not outcome.after_interrupt:
        turn.emit(RunHooks(ON_FAILURE, cause=outcome))
    policy = state.config.restart
    if outcome.after_interrupt:
        turn.finish("job", outcome.exit_code, RunState.FINISHED if outcome.ok else RunState.INTERRUPTED)
    elif outcome.ok and policy is not RestartPolicy.ALWAYS:
        turn.finish("job", 0, RunState.FINISHED)
    elif policy is RestartPolicy.NEVER:
        turn.say(NORMAL, f"the job ended with {words(outcome)}; it is not restarted (--restart never)")
        turn.finish("job", outcome.exit_code, RunState.FAILED)
    else:
        restart(turn, outcome)
