"""What the job is put back to after it has ended or a restore has failed, or why nothing is. Handlers of the table.

How a failure is judged is in `ckptrun.core.restart`. Called by the machine, and by `ckptrun.core.lifecycle`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptrun.core.commands import DETAIL, ERROR, NORMAL, DropLocal, MarkBad, RestoreJob, SetAside
from ckptrun.core.events import RestoreFailed
from ckptrun.core.incarnation import Incarnation
from ckptrun.core.model import RunState
from ckptrun.core.restart import HOOK_TRIES, TRANSIENT_TRIES, backoff, words
from ckptrun.core.resume import NO_CHECKPOINT
from ckptrun.core.state import Flaw, Phase, Stored

if TYPE_CHECKING:
    from ckptrun.core.events import CapsuleGone, Outcome, Tick
    from ckptrun.core.state import Checkpoint
    from ckptrun.core.turn import Turn


def restore_failed(turn: Turn, event: RestoreFailed) -> None:
    """Try the same checkpoint from the store, or again later, or the next older one."""
    turn.incarnation_over()
    checkpoint = turn.state.find(turn.state.incarnation.origin or "")
    turn.record("restore-failed", checkpoint=event.checkpoint, reason=event.reason, corrupt=event.corrupt)
    tries = turn.state.transient_failures
    again = event.transient and not event.corrupt and tries < TRANSIENT_TRIES
    if event.aborted:
        _aborted(turn, event, tries)
        return
    in_store = checkpoint is None or checkpoint.stored is Stored.COMMITTED
    if event.unfit and (in_store or not again):
        _unfit(turn, event)
        return
    turn.say(NORMAL, f"checkpoint {event.checkpoint} cannot be restored: {event.reason}")
    if again:
        turn.change(transient_failures=tries + 1)
        _wait(turn, backoff(tries))
        return
    if checkpoint is not None and checkpoint.local and checkpoint.stored is Stored.COMMITTED:
        turn.emit(DropLocal(checkpoint.id))
        turn.amend(checkpoint.id, local=False)
    elif checkpoint is not None:
        if event.corrupt and checkpoint.stored is Stored.COMMITTED:
            turn.emit(MarkBad(checkpoint.id, event.reason))
        _rule_out(turn, checkpoint, Flaw.CORRUPT if event.corrupt else Flaw.UNRESTORABLE)
    restore_newest(turn)


def _aborted(turn: Turn, event: RestoreFailed, tries: int) -> None:
    """Try the same checkpoint again while that may help; then end the run, which can be gone on with."""
    turn.say(NORMAL, f"checkpoint {event.checkpoint} is not restored: {event.reason}")
    if tries < HOOK_TRIES:
        turn.change(transient_failures=tries + 1)
        _wait(turn, backoff(tries))
        return
    turn.say(ERROR, f"giving up after {tries + 1} tries: {event.reason}")
    turn.say(NORMAL, f"checkpoint {event.checkpoint} stays as it is: the same command goes on from it")
    turn.finish("ckptrun", NO_CHECKPOINT, RunState.INTERRUPTED)


def _unfit(turn: Turn, event: RestoreFailed) -> None:
    """End the run: an older checkpoint would throw away work that is good where this one fits."""
    if event.transient:
        turn.say(ERROR, f"checkpoint {event.checkpoint} cannot be restored now: {event.reason}")
        turn.say(NORMAL, "it stays as it is: the same command goes on from it")
    else:
        turn.say(ERROR, f"checkpoint {event.checkpoint} does not fit here: {event.reason}")
        turn.say(
            NORMAL,
            "it stays as it is: the same command goes on from it where it fits, or here with that mended",
        )
    turn.finish("ckptrun", NO_CHECKPOINT, RunState.INTERRUPTED)


def restore_lost(turn: Turn, event: CapsuleGone) -> None:
    """The capsule died under a restore."""
    reason = "its capsule ended before the job ran"
    origin = turn.state.incarnation.origin or ""
    restore_failed(turn, RestoreFailed(event.now, event.incarnation, origin, reason))


def wait_over(turn: Turn, event: Tick) -> None:
    """Start the next incarnation once its time has come."""
    del event
    if turn.state.start_at is None or turn.state.start_at > turn.now:
        return
    turn.change(start_at=None)
    failure = turn.state.last_failure
    if turn.state.newest is None and failure is not None:
        _give_up(turn, failure, "the checkpoint to go back to was lost meanwhile")
    else:
        restore_newest(turn)


def restart(turn: Turn, outcome: Outcome) -> None:
    """Put a job that has ended back to its newest checkpoint, or to an older one, or give up."""
    if not outcome.ok:
        turn.change(last_failure=outcome)
    newest = turn.state.newest
    if newest is None:
        _without_checkpoint(turn, outcome)
        return
    turn.change(failures=turn.state.failures.ended())
    target = newest if outcome.ok else _judge(turn, newest, outcome)
    if target is None:
        _give_up(turn, outcome, "every checkpoint is poisoned")
    elif turn.state.restarts >= turn.state.config.max_restarts:
        limit = turn.state.config.max_restarts
        _give_up(
            turn, outcome, f"{limit} restart{'' if limit == 1 else 's'} are all that --max-restarts allows"
        )
    else:
        turn.change(restarts=turn.state.restarts + 1)
        delay = turn.state.failures.delay
        when = "now" if delay == 0 else f"in {delay:g} s"
        turn.say(NORMAL, f"the job ended with {words(outcome)}; restoring checkpoint {target.id} {when}")
        if delay:
            _wait(turn, delay)
        else:
            restore_newest(turn)


def restore_newest(turn: Turn) -> None:
    """Restore the newest checkpoint that is usable; without one, end the run."""
    checkpoint = turn.state.newest
    if checkpoint is None:
        failure = turn.state.last_failure
        after = "" if failure is None else f" after the job ended with {words(failure)}"
        turn.say(ERROR, f"no checkpoint could be restored{after}; start anew with --fresh, or mend the cause")
        turn.finish("ckptrun", NO_CHECKPOINT, RunState.FAILED)
        return
    number = turn.state.incarnation.number + 1
    turn.change(phase=Phase.RESTORING, incarnation=Incarnation(number, alive=True, origin=checkpoint.id))
    turn.record("restore-started", incarnation=number, checkpoint=checkpoint.id, local=checkpoint.local)
    turn.say(
        DETAIL, f"restoring checkpoint {checkpoint.id} from {'memory' if checkpoint.local else 'the store'}"
    )
    turn.emit(RestoreJob(number, checkpoint.id, checkpoint.local))


def leave_behind(turn: Turn, origin: str | None) -> None:
    """Take what is newer than the restored checkpoint out of the question: an upload that was under way meanwhile."""
    ids = [c.id for c in turn.state.checkpoints]
    newer = turn.state.checkpoints[ids.index(origin) + 1 :] if origin in ids else ()
    for checkpoint in newer:
        if checkpoint.flaw is None:
            _rule_out(turn, checkpoint, Flaw.LEFT)
            if checkpoint.stored is Stored.COMMITTED:
                turn.emit(SetAside((checkpoint.id,)))


def _without_checkpoint(turn: Turn, outcome: Outcome) -> None:
    if outcome.ok:
        turn.finish("job", 0, RunState.FINISHED)
        return
    if turn.state.failures.tallies:
        _give_up(turn, outcome, "no checkpoint is left")
        return
    turn.say(
        NORMAL,
        f"the job ended with {words(outcome)} and has no checkpoint to go back to; it is not restarted",
    )
    turn.finish("job", outcome.exit_code, RunState.FAILED)


def _judge(turn: Turn, newest: Checkpoint, outcome: Outcome) -> Checkpoint | None:
    """Count the failure, step back from what it poisons, and return what is to be restored."""
    incarnation = turn.state.incarnation
    restored_from_it = incarnation.origin == newest.id
    uptime = None
    if restored_from_it:
        uptime = 0.0 if incarnation.up_since is None else turn.now - incarnation.up_since
    failures, tally = turn.state.failures.counted(newest.id, outcome, uptime)
    turn.change(failures=failures)
    target: Checkpoint | None = newest
    poisoned = tally.poisons
    stored: tuple[str, ...] = ()
    while poisoned and target is not None:
        turn.record("checkpoint-poisoned", id=target.id, signature=words(outcome))
        turn.say(
            NORMAL, f"checkpoint {target.id} is set aside: the job keeps failing after it ({words(outcome)})"
        )
        _rule_out(turn, target, Flaw.POISONED)
        if target.stored in (Stored.COMMITTED, Stored.UPLOADING):
            stored = (*stored, target.id)
        target = turn.state.newest
        if target is not None:
            failures, poisoned = turn.state.failures.retreated(target.id, outcome)
            turn.change(failures=failures)
    if stored and target is not None:  # else the next run may as well begin where this one ended
        turn.emit(SetAside(stored))
    return target


def _rule_out(turn: Turn, checkpoint: Checkpoint, flaw: Flaw) -> None:
    """Take a checkpoint out of the question for the rest of this run."""
    turn.amend(checkpoint.id, flaw=flaw)
    turn.discard(replace(checkpoint, flaw=flaw), f"the checkpoint is {flaw.value}")


def _wait(turn: Turn, delay: float) -> None:
    turn.change(phase=Phase.WAITING, start_at=turn.now + delay)


def _give_up(turn: Turn, outcome: Outcome, why: str) -> None:
    count = turn.state.restarts
    turn.say(
        ERROR,
        f"giving up: the job ended with {words(outcome)}, and {why}. "
        f"Restarted {count} time{'' if count == 1 else 's'}; {turn.state.failures.account()}",
    )
    turn.record("gave-up", reason=why, restarts=count)
    turn.finish("job", outcome.exit_code, RunState.FINISHED if outcome.ok else RunState.FAILED)
