"""The region of checkpoints: requests, the one dump, local copies. Handlers of the machine's table.

Uploads are in `ckptrun.core.uploading`; which event may come when is the table's business.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptrun.core.commands import DETAIL, NORMAL, DropLocal, ReleaseHold, TakeCheckpoint
from ckptrun.core.model import Trigger
from ckptrun.core.state import Checkpoint, Dump, Phase, Request, StopStage, Stored

if TYPE_CHECKING:
    from ckptrun.core.events import (
        CheckpointRequested,
        DumpFailed,
        DumpFinished,
        StagingLost,
        StagingReady,
    )
    from ckptrun.core.state import State
    from ckptrun.core.turn import Turn

_DROPPED_FIRST = (Stored.COMMITTED, Stored.NOT)
"""Local copies that make room for a dump, these first: the lineage loses nothing by it."""


def requested(turn: Turn, event: CheckpointRequested) -> None:
    """Queue a request; one dump answers all that are queued when it begins."""
    request = Request(event.waiter, event.label, event.wait, event.trigger)
    turn.change(requests=(*turn.state.requests, request))


def refused(turn: Turn, event: CheckpointRequested) -> None:
    """Tell a requester that it is too late."""
    turn.disappoint((Request(event.waiter, event.label, event.wait, event.trigger),), "the run is stopping")


def staging_ready(turn: Turn, event: StagingReady) -> None:
    """Dumps have a place to go to."""
    del event
    turn.change(staging_ready=True)


def staging_lost(turn: Turn, event: StagingLost) -> None:
    """A local copy is gone: what was not committed is lost, unless its upload has read it already."""
    checkpoint = turn.state.find(event.id)
    if checkpoint is None or not checkpoint.local:
        return  # dropped at the same moment
    turn.amend(event.id, local=False)
    turn.record("staging-lost", id=event.id)
    if checkpoint.stored in (Stored.PENDING, Stored.NOT):
        turn.discard(replace(checkpoint, local=False), "its local copy was lost before it was committed")


def dump_finished(turn: Turn, event: DumpFinished) -> None:
    """A dump is complete: the checkpoint is staged, or nobody wants it any more."""
    dump = _answered(turn, event.id)
    if dump.abandoned:
        if dump.hold:
            turn.emit(ReleaseHold(dump.id))
        turn.emit(DropLocal(dump.id))
        return
    turn.record(
        "checkpoint-staged",
        id=dump.id,
        trigger=dump.trigger.value,
        frozen_seconds=event.frozen_seconds,
        memory_bytes=event.memory_bytes,
    )
    if event.retried:
        turn.record("checkpoint-retried", id=dump.id, reason=event.retried)
        turn.say(DETAIL, f"checkpoint {dump.id} took two tries: {event.retried}")
    turn.say(DETAIL, f"checkpoint {dump.id} is complete; the job was frozen for {event.frozen_seconds:.3f} s")
    turn.answer(tuple(r for r in dump.requests if not r.wait), dump.id)
    waiting = tuple(r for r in dump.requests if r.wait)
    waiting += _supersede(turn, urgent=dump.hold)
    new = Checkpoint(
        dump.id, Stored.PENDING, local=True, frozen_seconds=event.frozen_seconds, requests=waiting
    )
    turn.change(
        checkpoints=(*turn.state.checkpoints, new),
        cadence=turn.state.cadence.staged(turn.now, event.frozen_seconds),
        failures=turn.state.failures.progressed(),
    )


def dump_failed(turn: Turn, event: DumpFailed) -> None:
    """No checkpoint came of it; the job runs on, and the next try waits longer each time."""
    dump = _answered(turn, event.id)
    if dump.abandoned:
        return
    kind = "checkpoint-skipped" if event.skipped else "checkpoint-failed"
    turn.record(kind, id=dump.id, trigger=dump.trigger.value, reason=event.reason)
    if event.skipped:
        soon = event.retry_after is not None or turn.state.cadence.skips > 0
        turn.say(DETAIL if soon else NORMAL, f"checkpoint {dump.id} was skipped: {event.reason}")
        turn.change(cadence=turn.state.cadence.skipped(turn.now, event.retry_after))
    elif event.job_ended:
        turn.say(DETAIL, f"checkpoint {dump.id} was not taken: {event.reason}")
        turn.change(cadence=turn.state.cadence.cut_short(turn.now))
    else:
        first = turn.state.cadence.failures == 0
        turn.say(NORMAL if first else DETAIL, f"checkpoint {dump.id} failed: {event.reason}; the job runs on")
        turn.change(cadence=turn.state.cadence.failed(turn.now, event.retry_after))
    later = "" if event.retry_after is None else f"; another try makes sense in {event.retry_after:g} s"
    turn.disappoint(dump.requests, f"checkpoint {dump.id} failed: {event.reason}{later}")


def wanted(state: State) -> Trigger | None:
    """Return why a dump would begin now if the job were in no critical section; None if none would."""
    if not _may_dump(state):
        return None
    if state.stop is not None:
        ready = state.stop.next_try <= state.now and _has_room(state, urgent=True)
        return Trigger.PREEMPTION if ready else None
    if state.requests:
        asked = {request.trigger for request in state.requests}
        why = Trigger.PREEMPTION if Trigger.PREEMPTION in asked else Trigger.REQUEST
        return why if _has_room(state) else None
    due = state.cadence.due
    return Trigger.INTERVAL if due is not None and due <= state.now and _interval_open(state) else None


def pump(turn: Turn) -> None:
    """Start the dump that is wanted most, if one can be started now."""
    trigger = wanted(turn.state)
    if trigger is None or turn.state.incarnation.in_section(turn.now):
        return
    stop = turn.state.stop
    _make_room(turn, urgent=stop is not None)
    _dump(turn, trigger, hold=stop is not None, deadline=None if stop is None else stop.checkpoint_by)


def alarms(state: State) -> list[float]:
    """Return when time alone will have a dump wanted."""
    if not _may_dump(state):
        return []
    due = state.cadence.due if state.stop is None else state.stop.next_try
    waits = due is not None and due > state.now and (state.stop is not None or _interval_open(state))
    return [due] if due is not None and waits else []


def _may_dump(state: State) -> bool:
    """Whether the job can be dumped at all, but for its critical sections: it runs, and staging is there for a dump."""
    runs = state.phase is Phase.RUNNING or (
        state.stop is not None
        and state.phase is Phase.STOPPING
        and state.stop.stage is StopStage.CHECKPOINTING
    )
    busy = state.dump is not None or state.incarnation.condemned
    return runs and state.staging_ready and not busy


def _interval_open(state: State) -> bool:
    """Whether a checkpoint by time may be taken: there is room, and no upload that is worth waiting for."""
    pending = any(c.stored is Stored.PENDING for c in state.checkpoints) and not state.store.failures
    busy = pending or state.uploading is not None
    return not busy and (state.slots_used < state.config.local_slots or _spare(state) is not None)


def _spare(state: State, *, urgent: bool = False) -> Checkpoint | None:
    """Return the local copy to drop first: the oldest that is committed, else one that never will be."""
    for stored in (*_DROPPED_FIRST, *([Stored.PENDING] if urgent else [])):
        for checkpoint in state.checkpoints:
            if checkpoint.local and checkpoint.stored is stored:
                return checkpoint
    return None


def _has_room(state: State, *, urgent: bool = False) -> bool:
    """Whether one more local copy fits, once those are dropped that may be."""
    stored = _DROPPED_FIRST + ((Stored.PENDING,) if urgent else ())
    spare = sum(c.local and c.stored in stored for c in state.checkpoints)
    return state.slots_used - spare < state.config.local_slots


def _make_room(turn: Turn, *, urgent: bool = False) -> None:
    """Drop local copies until one more fits, if that can be."""
    while turn.state.slots_used >= turn.state.config.local_slots:
        spare = _spare(turn.state, urgent=urgent)
        if spare is None:
            return
        if spare.stored is Stored.COMMITTED:
            turn.emit(DropLocal(spare.id))
            turn.amend(spare.id, local=False)
        else:
            turn.change(requests=(*turn.state.requests, *spare.requests))
            turn.discard(replace(spare, requests=()), "")


def _dump(turn: Turn, trigger: Trigger, *, hold: bool = False, deadline: float | None = None) -> None:
    serial = turn.state.serial + 1
    checkpoint = f"{turn.state.config.token}{serial:04d}"
    requests = turn.state.requests
    label = next((r.label for r in requests if r.label), "")
    turn.change(
        serial=serial,
        dump=Dump(checkpoint, trigger, hold, requests),
        requests=(),
        cadence=turn.state.cadence.dumping(turn.now),
    )
    turn.emit(TakeCheckpoint(checkpoint, trigger, hold, deadline, label, turn.state.incarnation.metrics))


def _answered(turn: Turn, checkpoint: str) -> Dump:
    """Take the dump in flight out of the state; the table's guard has checked that it is this one."""
    dump = turn.state.dump
    assert dump is not None
    assert dump.id == checkpoint
    incarnation = replace(turn.state.incarnation, beaten=turn.now)  # frozen time is no silence
    turn.change(dump=None, incarnation=incarnation)
    return dump


def _supersede(turn: Turn, *, urgent: bool) -> tuple[Request, ...]:
    """Drop staged checkpoints that a newer one makes pointless; return who waits for them.

    While the store fails, and before a stop, that is everything whose upload does not run; else nothing but
    what the store will never have.
    """
    inherited: tuple[Request, ...] = ()
    for checkpoint in turn.state.checkpoints:
        waits = checkpoint.stored is Stored.PENDING and (urgent or turn.state.store.failures > 0)
        if waits or checkpoint.stored is Stored.NOT:
            inherited += checkpoint.requests
            turn.discard(replace(checkpoint, requests=()), "")
    return inherited
