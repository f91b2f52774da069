"""The way of staged checkpoints into the store, one at a time, oldest first. Handlers of the machine's table.

A store that fails never stops the job: the copy stays in local memory, where a restore finds it, and the
upload is tried again ever more rarely.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptrun.core.commands import DETAIL, NORMAL, POST_COMMIT, MarkBad, RunHooks, SetAside, Upload
from ckptrun.core.restart import backoff
from ckptrun.core.state import Flaw, Phase, StopStage, Stored, StoreHealth

if TYPE_CHECKING:
    from ckptrun.core.events import CommitFailed, Committed
    from ckptrun.core.state import Checkpoint, State
    from ckptrun.core.turn import Turn

RETRY_CEILING = 60.0
"""Seconds between uploads while the store fails."""


def committed(turn: Turn, event: Committed) -> None:
    """A checkpoint counts from now on, and retention may have let others go."""
    checkpoint = _uploading(turn)
    if turn.state.store.failures:
        turn.say(NORMAL, f"the store works again; checkpoint {event.id} is committed")
    else:
        turn.say(DETAIL, f"checkpoint {event.id} is committed; its upload took {event.upload_seconds:.1f} s")
    turn.record("checkpoint-committed", id=event.id, seq=event.seq, upload_seconds=event.upload_seconds)
    turn.answer(checkpoint.requests, event.id)
    turn.amend(event.id, stored=Stored.COMMITTED, requests=())
    turn.change(
        store=StoreHealth(),
        cadence=turn.state.cadence.committed(turn.now, checkpoint.frozen_seconds + event.upload_seconds),
    )
    for gone in event.expired:
        _expire(turn, gone)
    _drop_if_flawed(turn, event.id)
    if checkpoint.flaw is not Flaw.CORRUPT:  # else its commit is taken back at once
        turn.emit(RunHooks(POST_COMMIT, checkpoint=event.id, kept=_kept(turn.state, event)))


def commit_failed(turn: Turn, event: CommitFailed) -> None:
    """An upload failed: again later if that may help, else the next checkpoint is the next chance."""
    checkpoint = _uploading(turn)
    health = turn.state.store
    again = event.transient and checkpoint.local and checkpoint.flaw is None
    pause = backoff(health.failures, RETRY_CEILING)
    turn.record("commit-failed", id=event.id, reason=event.reason, transient=event.transient)
    what = f"checkpoint {event.id} cannot be stored: {event.reason}"
    if again:
        level = DETAIL if health.failures else NORMAL
        turn.say(level, f"{what}; it stays in local memory, next try in {pause:g} s")
    else:
        turn.say(NORMAL, f"{what}; the job runs on" if turn.state.incarnation.alive else what)
    turn.change(store=StoreHealth(health.failures + 1, turn.now + pause))
    turn.amend(event.id, stored=Stored.PENDING if again else Stored.NOT)
    if not again:
        turn.disappoint(checkpoint.requests, what)
        turn.amend(event.id, requests=())
        _drop_if_flawed(turn, event.id)


def pump(turn: Turn) -> None:
    """Start the next upload, if there is one and the store is not being left in peace."""
    state = turn.state
    if not _may_upload(state) or (state.store.retry_at or turn.now) > turn.now:
        return
    waiting = _next(state)
    if waiting is not None:
        turn.amend(waiting.id, stored=Stored.UPLOADING)
        turn.emit(Upload(waiting.id))


def alarms(state: State) -> list[float]:
    """Return when time alone will start an upload."""
    if not _may_upload(state) or _next(state) is None or state.store.retry_at is None:
        return []
    return [state.store.retry_at]


def _next(state: State) -> Checkpoint | None:
    return next((c for c in state.checkpoints if c.stored is Stored.PENDING), None)


def _may_upload(state: State) -> bool:
    """Whether an upload may begin: none runs, and a stop's last checkpoint shall not have to wait for it."""
    if state.phase in (Phase.NEW, Phase.ENDING, Phase.ENDED) or state.uploading is not None:
        return False
    return state.stop is None or state.stop.stage is not StopStage.CHECKPOINTING


def _uploading(turn: Turn) -> Checkpoint:
    checkpoint = turn.state.uploading
    assert checkpoint is not None  # the table's guard has checked it
    return checkpoint


def _expire(turn: Turn, gone: str) -> None:
    """Retention took a checkpoint out of the store; a local copy that a restore is reading stays."""
    checkpoint = turn.state.find(gone)
    if checkpoint is None or checkpoint.stored is not Stored.COMMITTED:
        return
    turn.amend(gone, stored=Stored.NOT)
    if not (
        turn.state.phase is Phase.RESTORING and turn.state.incarnation.origin == gone and checkpoint.local
    ):
        turn.discard(replace(checkpoint, stored=Stored.NOT), "")


def _kept(state: State, event: Committed) -> tuple[str, ...] | None:
    """Return what can still be restored: what the store has, and what local memory has."""
    if event.kept is None:
        return None
    return tuple(sorted({*event.kept, *(one.id for one in state.checkpoints if one.usable)}))


def _drop_if_flawed(turn: Turn, checkpoint_id: str) -> None:
    """Let a checkpoint go that was found useless, or lost its copy, while its upload ran."""
    checkpoint = turn.state.find(checkpoint_id)
    if checkpoint is None or checkpoint.usable:
        return
    if checkpoint.stored is Stored.COMMITTED and checkpoint.flaw is not None:
        corrupt = checkpoint.flaw is Flaw.CORRUPT
        reason = "its copy in local memory was corrupt"
        turn.emit(MarkBad(checkpoint.id, reason) if corrupt else SetAside((checkpoint.id,)))
    turn.discard(checkpoint, "")
