"""What is always true of a state. Called after each step in tests, and by whoever suspects the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptrun.core.machine import alarms, story
from ckptrun.core.model import Trigger
from ckptrun.core.state import Phase, StopStage, Stored

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptrun.core.state import State

_LIVING = (Phase.LAUNCHING, Phase.RUNNING, Phase.RESTORING, Phase.ENDING)


def validate_state(state: State) -> None:
    """Check a state.

    Raises:
        AssertionError: names each broken rule, and tells the story.
    """
    broken = [
        *_run(state),
        *_flush(state),
        *_checkpoints(state),
        *_dump(state),
        *_sections(state),
        *_alarm(state),
    ]
    if broken:
        raise AssertionError("; ".join(broken) + "\n" + story(state))


def _run(state: State) -> Iterator[str]:
    incarnation, phase, stop = state.incarnation, state.phase, state.stop
    if phase in _LIVING and not incarnation.alive:
        yield f"nothing lives while {phase}"
    if phase in (Phase.NEW, Phase.WAITING, Phase.FLUSHING, Phase.ENDED) and incarnation.alive:
        yield f"incarnation {incarnation.number} lives while {phase}"
    if phase is Phase.STOPPING and not incarnation.alive and (stop is None or stop.outcome is None):
        yield "a stop waits for a job that has ended"
    if (phase is Phase.STOPPING) and stop is None:
        yield "a stop without deadlines"
    if (phase in (Phase.ENDING, Phase.FLUSHING, Phase.ENDED)) != (state.verdict is not None):
        yield f"verdict {state.verdict} while {phase}"
    if (phase is Phase.WAITING) != (state.start_at is not None):
        yield f"the next start is at {state.start_at} while {phase}"
    if phase is Phase.RUNNING and incarnation.up_since is None:
        yield "a running job has no uptime"
    if state.restarts > state.config.max_restarts:
        yield "more restarts than allowed"


def _flush(state: State) -> Iterator[str]:
    if (state.phase is Phase.FLUSHING) != (state.flush_by is not None):
        yield f"the run ends at {state.flush_by} while {state.phase}"
    if state.phase is Phase.FLUSHING and state.unstored is None:
        yield "the run waits for nothing"


def _checkpoints(state: State) -> Iterator[str]:
    ids = [c.id for c in state.checkpoints]
    if len(ids) != len(set(ids)):
        yield "a checkpoint is known twice"
    if sum(c.stored is Stored.UPLOADING for c in state.checkpoints) > 1:
        yield "two uploads at once"
    if state.slots_used > state.config.local_slots and state.dump is not None:
        yield f"{state.slots_used} local copies in {state.config.local_slots} slots"
    for checkpoint in state.checkpoints:
        if checkpoint.stored is Stored.PENDING and not (checkpoint.local and checkpoint.flaw is None):
            yield f"{checkpoint.id} waits for an upload that cannot succeed"
        if checkpoint.requests and checkpoint.stored in (Stored.COMMITTED, Stored.NOT):
            yield f"somebody waits for {checkpoint.id} in vain"
        if not checkpoint.usable and checkpoint.stored is not Stored.UPLOADING:
            yield f"{checkpoint.id} is of no use"


def _dump(state: State) -> Iterator[str]:
    dump, held = state.dump, state.stop.held if state.stop else None
    if dump is not None and not dump.abandoned and state.phase not in (Phase.RUNNING, Phase.STOPPING):
        yield f"dump {dump.id} is wanted while {state.phase}"
    if dump is not None and dump.hold and dump.trigger is not Trigger.PREEMPTION:
        yield f"dump {dump.id} holds the job without a stop"
    if state.stop and (state.stop.stage is StopStage.HOLDING) and held is None:
        yield "a stop holds no checkpoint"
    if state.phase is Phase.ENDED and state.requests:
        yield "somebody still waits for an answer"


def _sections(state: State) -> Iterator[str]:
    job = state.incarnation
    if state.phase not in (Phase.RUNNING, Phase.STOPPING) or not job.alive:
        return
    outside = any(section.until is None for section in job.sections)
    if outside and state.dump is None and (job.held is None or not job.held.keeps_out(state.now)):
        yield "somebody waits outside a critical section for nothing"
    if job.held is not None and not job.in_section(state.now):
        yield "a dump is held back by nothing"
    if job.held is not None and state.dump is not None:
        yield f"dump {state.dump.id} is in flight, and one is held back"


def _alarm(state: State) -> Iterator[str]:
    earliest = min(alarms(state), default=None)
    if earliest is not None and (state.wake is None or state.wake > earliest):
        yield f"the alarm is at {state.wake}, and something is due at {earliest}"
