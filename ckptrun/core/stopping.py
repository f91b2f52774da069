"""A stop: the last checkpoint, then the end, within the grace. Handlers of the machine's table.

CHECKPOINTING: a dump in flight ends first; then the job is dumped and stays frozen. HOLDING: that checkpoint
goes to the store; once it is committed, the job is killed at that very state and the run ends with 75. If any
of this fails, or `CHECKPOINT_SHARE` of the grace has passed: SIGNALLED, the job runs on, gets the signal, and
what is left of the grace to end by itself. At the end of the grace, or on a second stop, it is killed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptrun.core.checkpointing import dump_failed, dump_finished, staging_lost
from ckptrun.core.commands import NORMAL, ON_FAILURE, Finish, ReleaseHold, RunHooks, SignalJob
from ckptrun.core.events import Outcome
from ckptrun.core.flushing import RUN_ME_AGAIN
from ckptrun.core.lifecycle import HELD
from ckptrun.core.model import Exit, RunState
from ckptrun.core.restart import describe
from ckptrun.core.state import Phase, Stop, StopStage, Stored, StoreHealth
from ckptrun.core.uploading import commit_failed, committed

if TYPE_CHECKING:
    from ckptrun.core.events import (
        CapsuleGone,
        CommitFailed,
        Committed,
        DumpFailed,
        DumpFinished,
        JobEnded,
        RestoreFailed,
        StagingLost,
        StartFailed,
        StopRequested,
        Tick,
    )
    from ckptrun.core.state import State
    from ckptrun.core.turn import Turn

CHECKPOINT_SHARE = 0.7
"""The part of the grace that the last checkpoint may take; the rest is the job's, to end by itself."""

RETRY_SECONDS = 1.0
"""Before a skipped last checkpoint is tried again, if nobody says how long."""


def stop(turn: Turn, event: StopRequested) -> None:
    """Begin to stop a running job."""
    turn.record("stop-requested", signal=event.signum, grace=event.grace)
    turn.change(
        phase=Phase.STOPPING,
        stop=Stop(event.signum, turn.now + event.grace * CHECKPOINT_SHARE, turn.now + event.grace),
    )
    if event.grace <= 0:
        _signal(turn, "there is no time for a checkpoint")
    else:
        turn.say(NORMAL, f"{_name(event.signum)}: taking a last checkpoint, then the job is stopped")


def stop_unready(turn: Turn, event: StopRequested) -> None:
    """Stop while the job does not run yet: there is nothing that a checkpoint would save."""
    turn.record("stop-requested", signal=event.signum, grace=event.grace)
    by = turn.now + event.grace
    turn.change(stop=Stop(event.signum, turn.now, by, stage=StopStage.SIGNALLED))
    resumable = turn.state.committed or (event.grace > 0 and turn.state.unstored is not None)
    code = Exit("ckptrun", RUN_ME_AGAIN) if resumable else Exit("job", 128 + event.signum)
    verdict = Finish(code, RunState.INTERRUPTED)
    if turn.state.incarnation.alive:
        turn.kill(verdict)
    else:
        turn.conclude(verdict)


def stop_again(turn: Turn, event: StopRequested) -> None:
    """Whoever asks twice does not want to wait."""
    del event
    turn.say(NORMAL, "asked twice to stop: the job is killed")
    turn.change(stop=replace(_stop(turn), kill_by=turn.now))
    _kill(turn)


def staged(turn: Turn, event: DumpFinished) -> None:
    """The last checkpoint is complete and the job frozen; any other dump just makes way for it."""
    dump = turn.state.dump
    assert dump is not None
    dump_finished(turn, event)
    if dump.hold and not dump.abandoned:
        turn.change(
            stop=replace(_stop(turn), stage=StopStage.HOLDING, held=dump.id),
            store=StoreHealth(),  # no time to leave the store in peace
        )


def not_staged(turn: Turn, event: DumpFailed) -> None:
    """Try a skipped last checkpoint again while there is time; a failed one fails the stop."""
    dump = turn.state.dump
    assert dump is not None
    dump_failed(turn, event)
    if not dump.hold or dump.abandoned:
        return
    again = turn.now + max(RETRY_SECONDS, event.retry_after or 0.0)
    passing = event.skipped or event.job_ended or event.retry_after is not None
    if passing and again < _stop(turn).checkpoint_by:
        turn.change(stop=replace(_stop(turn), next_try=again))
    else:
        _signal(turn, f"the last checkpoint failed: {event.reason}")


def stored(turn: Turn, event: Committed) -> None:
    """The last checkpoint is durable: the job is killed at that very state."""
    committed(turn, event)
    if event.id != _stop(turn).held or _stop(turn).stage is not StopStage.HOLDING:
        return
    turn.say(NORMAL, f"checkpoint {event.id} is committed and the job stopped; run the same command to go on")
    verdict = Finish(Exit("ckptrun", RUN_ME_AGAIN), RunState.INTERRUPTED)
    if turn.state.incarnation.alive:
        turn.kill(verdict)
    else:
        turn.conclude(verdict)


def not_stored(turn: Turn, event: CommitFailed) -> None:
    """The last checkpoint's upload is tried again if that may help; else the stop goes on without it."""
    commit_failed(turn, event)
    if not event.transient:
        _unless_held(turn, f"the last checkpoint cannot be stored: {event.reason}")
    else:
        _unless_held(turn, "the last checkpoint's local copy was lost")


def lost(turn: Turn, event: StagingLost) -> None:
    """If that was the last checkpoint, the stop goes on without it."""
    staging_lost(turn, event)
    _unless_held(turn, "the last checkpoint's local copy was lost")


def ended(turn: Turn, event: JobEnded) -> None:
    """The job ended by itself, or somebody killed it while it was held: then its checkpoint still counts."""
    _ended(turn, event.outcome)


def gone(turn: Turn, event: CapsuleGone) -> None:
    """The capsule's init was killed, and the job with it."""
    del event
    _ended(turn, Outcome(signal=9))


def time_passes(turn: Turn, event: Tick) -> None:
    """Keep the deadlines."""
    del event
    current = _stop(turn)
    if turn.now >= current.checkpoint_by and current.stage is not StopStage.SIGNALLED:
        _signal(turn, "the last checkpoint takes too long")
    if turn.state.phase is Phase.STOPPING and turn.now >= current.kill_by:
        turn.say(NORMAL, "the job did not end within the grace and is killed")
        _kill(turn)


def killed(turn: Turn, event: CapsuleGone | JobEnded | RestoreFailed | StartFailed) -> None:
    """The capsule is gone and the run can end; a job faster than the kill keeps its own exit code."""
    turn.incarnation_over()
    verdict = turn.state.verdict
    assert verdict is not None
    outcome = getattr(event, "outcome", None)
    if isinstance(outcome, Outcome) and outcome.signal != 9 and verdict.exit.by == "job":
        verdict = _own(outcome)
    turn.conclude(verdict, flush=verdict.exit != Exit("ckptrun", HELD))


def alarms(state: State) -> list[float]:
    """Return the deadlines."""
    if state.phase is not Phase.STOPPING or state.stop is None:
        return []
    signalled = state.stop.stage is StopStage.SIGNALLED
    return [state.stop.kill_by if signalled else state.stop.checkpoint_by]


def _signal(turn: Turn, why: str) -> None:
    """Give the last checkpoint up; the job runs on, is told to stop, and may end by itself."""
    current = _stop(turn)
    turn.abandon_dump("the run is stopping")
    if current.outcome is not None:
        turn.say(NORMAL, f"{why}; the job has ended")
        turn.conclude(_own(current.outcome))
        return
    turn.say(NORMAL, f"{why}; the job gets {_name(current.signum)} instead")
    if current.stage is StopStage.HOLDING and current.held is not None:
        turn.emit(ReleaseHold(current.held))
    turn.emit(SignalJob(current.signum))
    turn.change(stop=replace(current, stage=StopStage.SIGNALLED))


def _unless_held(turn: Turn, why: str) -> None:
    """Go on without the last checkpoint if it can no longer be committed."""
    current = _stop(turn)
    if current.stage is not StopStage.HOLDING:
        return
    held = turn.state.find(current.held or "")
    uploadable = held is not None and held.stored in (Stored.PENDING, Stored.UPLOADING)
    if not uploadable:
        _signal(turn, why)


def _ended(turn: Turn, outcome: Outcome) -> None:
    current = _stop(turn)
    number = turn.state.incarnation.number
    turn.incarnation_over()
    turn.record("job-ended", incarnation=number, code=outcome.code, signal=outcome.signal, oom=outcome.oom)
    if not outcome.ok and current.stage is not StopStage.SIGNALLED:
        turn.emit(RunHooks(ON_FAILURE, cause=outcome))
    if current.stage is StopStage.HOLDING and not outcome.ok:
        turn.change(stop=replace(current, outcome=outcome))
    else:
        turn.conclude(_own(outcome))


def _kill(turn: Turn) -> None:
    """Kill the job, or end the run if somebody else has done that."""
    current = _stop(turn)
    if turn.state.incarnation.alive:
        turn.abandon_dump("the run is stopping")
        turn.kill(Finish(Exit("job", 128 + current.signum), RunState.INTERRUPTED))
    elif current.outcome is not None:
        turn.conclude(_own(current.outcome))


def _own(outcome: Outcome) -> Finish:
    """Return the verdict of a job that ended by itself during a stop: what is not finished can be resumed."""
    return Finish(Exit("job", outcome.exit_code), RunState.FINISHED if outcome.ok else RunState.INTERRUPTED)


def _name(signum: int) -> str:
    return describe(None, signum)


def _stop(turn: Turn) -> Stop:
    assert turn.state.stop is not None
    return turn.state.stop
