"""What the job says of itself: heartbeats, rollbacks, figures. Handlers of the machine's table.

The job's side is ``ckptrun.job``. All that it has said ends with its incarnation. Critical sections are in
`ckptrun.core.sections`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptrun.core.commands import NORMAL, Answer, KillCapsule
from ckptrun.core.config import RestartPolicy
from ckptrun.core.restart import HEARTBEAT, ROLLBACK
from ckptrun.core.state import Phase

if TYPE_CHECKING:
    from ckptrun.core.events import Beat, Reported, RollbackRequested
    from ckptrun.core.state import State
    from ckptrun.core.turn import Turn


def beat(turn: Turn, event: Beat) -> None:
    """The job makes progress, and may have said when it will say so again."""
    within = turn.state.incarnation.within if event.within is None else event.within
    _amend(turn, within=within, beaten=turn.now)


def reported(turn: Turn, event: Reported) -> None:
    """The newest figures, for the next checkpoint's record."""
    _amend(turn, metrics={**turn.state.incarnation.metrics, **event.metrics})


def rollback(turn: Turn, event: RollbackRequested) -> None:
    """Kill the job, to be restored from the newest checkpoint, if there is one."""
    newest = turn.state.newest
    if turn.state.incarnation.condemned:
        _refuse(turn, event, "the job is being killed already")
    elif newest is None:
        _refuse(turn, event, "there is no checkpoint to go back to yet (checkpoint() takes one)")
    elif turn.state.config.restart is RestartPolicy.NEVER:
        _refuse(turn, event, "--restart never lets nothing be restored")
    else:
        turn.record("rollback", reason=event.reason, checkpoint=newest.id)
        turn.emit(Answer(event.waiter, newest.id, None))
        _condemn(turn, f"{ROLLBACK}{event.reason}", f"the job asks to be rolled back: {event.reason}")


def rollback_refused(turn: Turn, event: RollbackRequested) -> None:
    """Tell a job that is being stopped that it is too late."""
    _refuse(turn, event, "the run is stopping")


def settle(turn: Turn) -> None:
    """Kill a job that has been silent for too long."""
    incarnation = turn.state.incarnation
    if (due := _hung_at(turn.state)) is not None and due <= turn.now:
        within = incarnation.within or 0.0
        turn.record("heartbeat-lost", incarnation=incarnation.number, within=within)
        _condemn(turn, HEARTBEAT, f"the job has given no heartbeat for {within:g} s: it hangs and is killed")


def alarms(state: State) -> list[float]:
    """Return when the next heartbeat is overdue."""
    hung = _hung_at(state)
    return [] if hung is None else [hung]


def _hung_at(state: State) -> float | None:
    incarnation = state.incarnation
    if state.phase is not Phase.RUNNING or not incarnation.alive:
        return None
    if incarnation.within is None or incarnation.condemned or state.dump is not None:
        return None
    return incarnation.beaten + incarnation.within


def _condemn(turn: Turn, cause: str, text: str) -> None:
    turn.say(NORMAL, text)
    turn.abandon_dump(text)
    _amend(turn, condemned=cause)
    turn.emit(KillCapsule(turn.state.incarnation.number))


def _refuse(turn: Turn, event: RollbackRequested, why: str) -> None:
    turn.emit(Answer(event.waiter, None, why))


def _amend(turn: Turn, **fields: object) -> None:
    turn.change(incarnation=replace(turn.state.incarnation, **fields))  # type: ignore[arg-type]
