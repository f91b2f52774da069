"""The machine: ``step(state, event) -> (state, commands)``. Every transition there is, in one table.

Rules:

1.  The shell reports facts (`ckptrun.core.events`), the machine answers with instructions
    (`ckptrun.core.commands`). No clock, no I/O: the same events give the same commands.
2.  A (phase, event) that has no row is illegal: `IllegalEventError`, and nothing has changed.
3.  Reports about an incarnation that has ended are stragglers of a race: taken, and nothing is done.
4.  An incarnation ends before the next one starts; the run ends with one `Finish`, when nothing lives.
5.  At most one dump is in flight, ever. An abandoned one stays in flight until the shell has answered it.
6.  At most one upload runs. It outlives the incarnation it came from.
7.  A checkpoint that is neither committed nor in local memory is never restored.
8.  A handler changes what its row says. After it, whatever has become possible is started: the next upload,
    the dump that is wanted most. Then the shell is told when time alone will change something (`WakeAt`).
9.  Hooks that nothing waits for are run in the order of their `RunHooks`: ``on-failure`` after each failure of the
    job and before what is done about it, ``post-commit`` after each commit that stays, ``on-exit`` last of all, before
    `Finish`.
10. A phase that depends on time (WAITING, STOPPING) moves on a `Tick` only.

The diagram in docs/design/machine.md is drawn from this table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ckptrun.core import calls, checkpointing, flushing, lifecycle, restoring, sections, stopping, uploading
from ckptrun.core.events import (
    Beat,
    Begin,
    CapsuleGone,
    CheckpointRequested,
    CommitFailed,
    Committed,
    CriticalEntered,
    CriticalLeft,
    DumpFailed,
    DumpFinished,
    Event,
    Fenced,
    JobEnded,
    JobStarted,
    Reported,
    RestoreFailed,
    RestoreSucceeded,
    RollbackRequested,
    StagingLost,
    StagingReady,
    StartFailed,
    StopRequested,
    Tick,
)
from ckptrun.core.state import Phase, State, Transition
from ckptrun.core.turn import Turn
from ckptrun.errors import CkptrunError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptrun.core.commands import Command

_CHATTER = (Tick, Beat, Reported, CriticalEntered, CriticalLeft)

STORY_LENGTH = 30
"""Transitions kept for internal errors."""


class IllegalEventError(CkptrunError):
    """The shell reported what cannot have happened: a bug in ckptrun."""


def nothing(turn: Turn, event: Event) -> None:
    """Take the event and do nothing."""
    del turn, event


def late(turn: Turn, event: Event) -> None:
    """Take what comes too late, and do not even look whether something can be started."""
    del turn, event


@dataclass(frozen=True, slots=True)
class Row:
    """One transition: in ``phases``, ``event`` is handled by ``handler`` and leads to one of ``to``."""

    phases: tuple[Phase, ...]
    event: type[Event]
    handler: Callable[[Turn, Any], None]
    to: tuple[Phase, ...]


NEW, LAUNCHING, RUNNING, WAITING = Phase.NEW, Phase.LAUNCHING, Phase.RUNNING, Phase.WAITING
RESTORING, STOPPING, ENDING, ENDED = Phase.RESTORING, Phase.STOPPING, Phase.ENDING, Phase.ENDED
FLUSHING = Phase.FLUSHING
_OPEN = (LAUNCHING, RUNNING, WAITING, RESTORING)
_OVER = (FLUSHING, ENDED)
_NEXT = (WAITING, RESTORING, *_OVER)

TABLE: tuple[Row, ...] = (
    # The run.
    Row((NEW,), Begin, lifecycle.begin, (LAUNCHING, RESTORING)),
    Row((LAUNCHING,), JobStarted, lifecycle.job_started, (RUNNING,)),
    Row((LAUNCHING,), StartFailed, lifecycle.start_failed, (LAUNCHING, RESTORING, ENDED)),
    Row((RESTORING,), RestoreSucceeded, lifecycle.restored, (RUNNING,)),
    Row((RESTORING,), RestoreFailed, restoring.restore_failed, _NEXT),
    Row((RESTORING,), CapsuleGone, restoring.restore_lost, (RESTORING, *_OVER)),
    Row((RUNNING, RESTORING), JobEnded, lifecycle.job_ended, _NEXT),
    Row((RUNNING,), CapsuleGone, lifecycle.capsule_gone, _NEXT),
    Row((LAUNCHING,), JobEnded, lifecycle.job_ended, _NEXT),
    Row((LAUNCHING,), CapsuleGone, lifecycle.capsule_gone, _NEXT),
    Row((WAITING,), Tick, restoring.wait_over, (WAITING, RESTORING, *_OVER)),
    Row((LAUNCHING, RUNNING, RESTORING), Fenced, lifecycle.fenced, (ENDING,)),
    Row((STOPPING,), Fenced, lifecycle.fenced, (ENDING, ENDED)),
    Row((NEW, WAITING, FLUSHING), Fenced, lifecycle.fenced, (ENDED,)),
    # A stop.
    Row((RUNNING,), StopRequested, stopping.stop, (STOPPING,)),
    Row((LAUNCHING, RESTORING), StopRequested, stopping.stop_unready, (ENDING,)),
    Row((NEW,), StopRequested, stopping.stop_unready, (ENDED,)),
    Row((WAITING,), StopRequested, stopping.stop_unready, _OVER),
    Row((STOPPING,), StopRequested, stopping.stop_again, (ENDING, ENDED)),
    Row((STOPPING,), DumpFinished, stopping.staged, (STOPPING,)),
    Row((STOPPING,), DumpFailed, stopping.not_staged, (STOPPING,)),
    Row((STOPPING,), Committed, stopping.stored, (STOPPING, ENDING, *_OVER)),
    Row((STOPPING,), CommitFailed, stopping.not_stored, (STOPPING, *_OVER)),
    Row((STOPPING,), StagingLost, stopping.lost, (STOPPING, *_OVER)),
    Row((STOPPING,), JobEnded, stopping.ended, (STOPPING, *_OVER)),
    Row((STOPPING,), CapsuleGone, stopping.gone, (STOPPING, *_OVER)),
    Row((STOPPING,), Tick, stopping.time_passes, (STOPPING, ENDING, *_OVER)),
    Row((ENDING,), CapsuleGone, stopping.killed, _OVER),
    Row((ENDING,), JobEnded, stopping.killed, _OVER),
    Row((ENDING,), RestoreFailed, stopping.killed, _OVER),
    Row((ENDING,), StartFailed, stopping.killed, _OVER),
    # The newest checkpoint still on its way.
    Row((FLUSHING,), Committed, flushing.stored, _OVER),
    Row((FLUSHING,), CommitFailed, flushing.not_stored, _OVER),
    Row((FLUSHING,), StagingLost, flushing.lost, _OVER),
    Row((FLUSHING,), Tick, flushing.time_passes, _OVER),
    Row((FLUSHING,), StopRequested, flushing.hurried, _OVER),
    # Checkpoints, whatever the run does.
    Row((NEW, *_OPEN), CheckpointRequested, checkpointing.requested, ()),
    Row((STOPPING, ENDING, FLUSHING), CheckpointRequested, checkpointing.refused, ()),
    Row((NEW, *_OPEN, STOPPING, ENDING, FLUSHING), StagingReady, checkpointing.staging_ready, ()),
    Row((NEW, *_OPEN, ENDING), StagingLost, checkpointing.staging_lost, ()),
    Row((RUNNING, WAITING, RESTORING, ENDING, FLUSHING), DumpFinished, checkpointing.dump_finished, ()),
    Row((RUNNING, WAITING, RESTORING, ENDING, FLUSHING), DumpFailed, checkpointing.dump_failed, ()),
    Row((RUNNING, WAITING, RESTORING, ENDING), Committed, uploading.committed, ()),
    Row((RUNNING, WAITING, RESTORING, ENDING), CommitFailed, uploading.commit_failed, ()),
    Row((NEW, LAUNCHING, RUNNING, RESTORING, ENDING), Tick, nothing, ()),
    # What the job says of itself while it runs.
    Row((RUNNING, STOPPING, ENDING), CriticalEntered, sections.entered, ()),
    Row((RUNNING, STOPPING, ENDING), CriticalLeft, sections.left, ()),
    Row((RUNNING, STOPPING), Beat, calls.beat, ()),
    Row((RUNNING, STOPPING), Reported, calls.reported, ()),
    Row((RUNNING,), RollbackRequested, calls.rollback, ()),
    Row((STOPPING, ENDING), RollbackRequested, calls.rollback_refused, ()),
    Row((ENDING,), Beat, nothing, ()),
    Row((ENDING,), Reported, nothing, ()),
    # Too late to matter.
    Row((ENDING,), JobStarted, nothing, ()),
    Row((ENDING,), RestoreSucceeded, nothing, ()),
    Row((ENDING,), StopRequested, nothing, ()),
    Row((ENDING,), Fenced, nothing, ()),
    *(
        Row((ENDED,), event, late, ())
        for event in (
            *(Tick, CheckpointRequested, StopRequested, StagingReady, StagingLost, Fenced),
            *(DumpFinished, DumpFailed, Committed, CommitFailed),
        )
    ),
)
"""All transitions. An empty ``to`` means that the phase stays."""

_ROWS = {(phase, row.event): row for row in TABLE for phase in row.phases}
_LATE = Row((), Tick, late, ())
assert len(_ROWS) == sum(len(row.phases) for row in TABLE)


def step(state: State, event: Event) -> tuple[State, tuple[Command, ...]]:
    """Return the state after an event, and what is to be done.

    Raises:
        IllegalEventError: the event cannot have happened in this state.
    """
    row = _LATE if _straggler(state, event) else _ROWS.get((state.phase, type(event)))
    if row is None:
        raise _illegal(state, event, f"there is no such transition while {state.phase}")
    turn = Turn(state, event.now)
    if isinstance(event, Tick):
        turn.change(wake=None)  # the alarm is spent, even if the shell's clock was a hair early
    if row.handler is not late:
        _check(state, event)
        row.handler(turn, event)
        calls.settle(turn)
        uploading.pump(turn)
        sections.settle(turn)
        checkpointing.pump(turn)
        turn.set_alarm(alarms(turn.state))
    commands = tuple(turn.commands)
    return _remember(turn.state, state.phase, event, commands), commands


def alarms(state: State) -> list[float]:
    """Return the moments, in monotonic seconds, at which time alone will change something."""
    if state.phase in (Phase.ENDING, Phase.ENDED):
        return []
    start = [] if state.start_at is None else [state.start_at]
    return [
        *start,
        *stopping.alarms(state),
        *flushing.alarms(state),
        *sections.alarms(state),
        *calls.alarms(state),
        *uploading.alarms(state),
        *checkpointing.alarms(state),
    ]


def story(state: State) -> str:
    """Return the latest transitions, one a line, oldest first."""
    return "\n".join(str(t) for t in state.story)


def _straggler(state: State, event: Event) -> bool:
    """Whether an event is about an incarnation that has ended."""
    number = getattr(event, "incarnation", None)
    if number is None:
        return False
    current = state.incarnation
    return bool(number < current.number or (number == current.number and not current.alive))


def _check(state: State, event: Event) -> None:
    """Raise unless what the event is about exists."""
    number = getattr(event, "incarnation", state.incarnation.number)
    if number != state.incarnation.number:
        raise _illegal(state, event, f"the newest incarnation is {state.incarnation.number}")
    if isinstance(event, DumpFinished | DumpFailed) and (state.dump is None or state.dump.id != event.id):
        raise _illegal(state, event, "this dump is not in flight")
    if isinstance(event, Committed | CommitFailed):
        uploading_now = state.uploading
        if uploading_now is None or uploading_now.id != event.id:
            raise _illegal(state, event, "this upload does not run")


def _illegal(state: State, event: Event, why: str) -> IllegalEventError:
    return IllegalEventError(
        f"internal error: {event}: {why}", hint=f"please report it with this story:\n{story(state)}"
    )


def _remember(state: State, before: Phase, event: Event, commands: tuple[Command, ...]) -> State:
    names = tuple(type(c).__name__ for c in commands)
    told = Transition(state.now, type(event).__name__, before, state.phase, names)
    if isinstance(event, _CHATTER) and set(names) <= {"Answer", "WakeAt"} and before is state.phase:
        return state  # the beats of an idle run would push the story out
    return replace(state, story=(*state.story, told)[-STORY_LENGTH:])
