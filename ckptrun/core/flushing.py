"""The newest checkpoint on its way to the store when nothing lives any more. Handlers of the machine's table.

A run that is to be gone on with waits for it, within the grace: what is only in local memory goes with this process.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptrun.core.checkpointing import staging_lost
from ckptrun.core.commands import NORMAL
from ckptrun.core.model import Exit
from ckptrun.core.state import Phase, Stop, StopStage
from ckptrun.core.uploading import commit_failed, committed

if TYPE_CHECKING:
    from ckptrun.core.events import CommitFailed, Committed, StagingLost, StopRequested, Tick
    from ckptrun.core.state import State
    from ckptrun.core.turn import Turn

RUN_ME_AGAIN = 75


def stored(turn: Turn, event: Committed) -> None:
    """A checkpoint counts from now on; with the newest one the run ends."""
    committed(turn, event)
    _end_if_done(turn)


def not_stored(turn: Turn, event: CommitFailed) -> None:
    """An upload failed: it is tried again while there is time, if that may help."""
    commit_failed(turn, event)
    _end_if_done(turn)


def lost(turn: Turn, event: StagingLost) -> None:
    """A local copy is gone, and with the last one that could be stored the reason to wait."""
    staging_lost(turn, event)
    _end_if_done(turn)


def time_passes(turn: Turn, event: Tick) -> None:
    """Keep the deadline."""
    del event
    if turn.state.flush_by is not None and turn.now >= turn.state.flush_by:
        turn.say(NORMAL, "there is no more time to store the newest checkpoint")
        _end(turn)


def hurried(turn: Turn, event: StopRequested) -> None:
    """A first stop leaves its grace; whoever asks again does not want to wait."""
    turn.record("stop-requested", signal=event.signum, grace=event.grace)
    by = turn.now + event.grace
    if turn.state.stop is not None or by <= turn.now:
        turn.say(NORMAL, "asked to stop: the newest checkpoint is not stored")
        _end(turn)
        return
    flush_by = by if turn.state.flush_by is None else min(by, turn.state.flush_by)
    turn.change(flush_by=flush_by, stop=Stop(event.signum, turn.now, by, stage=StopStage.SIGNALLED))


def alarms(state: State) -> list[float]:
    """Return the deadline."""
    return [state.flush_by] if state.phase is Phase.FLUSHING and state.flush_by is not None else []


def _end_if_done(turn: Turn) -> None:
    if turn.state.unstored is None:
        _end(turn)


def _end(turn: Turn) -> None:
    verdict, asked = turn.state.verdict, turn.state.stop
    assert verdict is not None
    if verdict.exit == Exit("ckptrun", RUN_ME_AGAIN) and not turn.state.committed:
        assert asked is not None
        verdict = replace(verdict, exit=Exit("job", 128 + asked.signum))
    turn.end(verdict)
