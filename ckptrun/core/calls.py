"""What the job says of itself: critical sections, heartbeats, rollbacks, figures. Handlers of the machine's table.

The job's side is ``ckptrun.job``. All that it has said ends with its incarnation.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptrun.core.commands import NORMAL, Answer, KillCapsule
from ckptrun.core.config import RestartPolicy
from ckptrun.core.restart import HEARTBEAT, ROLLBACK
from ckptrun.core.state import Phase, Section

if TYPE_CHECKING:
    from ckptrun.core.events import Beat, CriticalEntered, CriticalLeft, Reported, RollbackRequested
    from ckptrun.core.state import State
    from ckptrun.core.turn import Turn


def entered(turn: Turn, event: CriticalEntered) -> None:
    """A section in which no dump begins; whoever enters it waits for the dump in flight."""
    section = Section(event.section, event.seconds, None, event.waiter)
    others = tuple(s for s in turn.state.incarnation.sections if s.name != event.section)
    _amend(turn, sections=(*others, section))


def left(turn: Turn, event: CriticalLeft) -> None:
    """A section's end: dumps may begin again."""
    sections = turn.state.incarnation.sections
    _amend(turn, sections=tuple(s for s in sections if s.name != event.section))
    if event.waiter is not None:
        turn.emit(Answer(event.waiter, event.section, None))
    waiting = (s.waiter for s in sections if s.name == event.section)
    turn.emit(*(Answer(waiter, None, "the section was left") for waiter in waiting if waiter is not None))


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
        _refuse(turn, event, "there is no checkpoint to go back to yet")
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
    """Do what has become due, by time or by the end of a dump."""
    incarnation = turn.state.incarnation
    if turn.state.phase not in (Phase.RUNNING, Phase.STOPPING) or not incarnation.alive:
        return
    if any(s.until is None for s in incarnation.sections) and turn.state.dump is None:
        _let_in(turn)
    if any(_overdue(s, turn.now) for s in turn.state.incarnation.sections):
        _say_overdue(turn)
    if turn.state.phase is Phase.RUNNING and (due := _hung_at(turn.state)) is not None and due <= turn.now:
        within = incarnation.within or 0.0
        turn.record("heartbeat-lost", incarnation=incarnation.number, within=within)
        _condemn(turn, HEARTBEAT, f"the job has given no heartbeat for {within:g} s: it hangs and is killed")


def alarms(state: State) -> list[float]:
    """Return when a section has lasted too long, and when the next heartbeat is overdue."""
    if state.phase not in (Phase.RUNNING, Phase.STOPPING) or not state.incarnation.alive:
        return []
    ends = [s.until for s in state.incarnation.sections if s.until is not None and not s.told]
    hung = _hung_at(state) if state.phase is Phase.RUNNING else None
    return ends if hung is None else [*ends, hung]


def _hung_at(state: State) -> float | None:
    incarnation = state.incarnation
    if incarnation.within is None or incarnation.condemned or state.dump is not None:
        return None
    return incarnation.beaten + incarnation.within


def _let_in(turn: Turn) -> None:
    sections = turn.state.incarnation.sections
    waiting = [s for s in sections if s.until is None]
    _amend(
        turn,
        sections=tuple(
            replace(s, until=turn.now + s.seconds, waiter=None) if s.until is None else s for s in sections
        ),
    )
    turn.emit(*(Answer(s.waiter, s.name, None) for s in waiting if s.waiter is not None))


def _say_overdue(turn: Turn) -> None:
    sections = turn.state.incarnation.sections
    for section in sections:
        if _overdue(section, turn.now):
            turn.record("critical-overdue", section=section.name, seconds=section.seconds)
            turn.say(
                NORMAL,
                f"a critical section of the job's has lasted {section.seconds:g} s: checkpoints are taken all the same",
            )
    _amend(turn, sections=tuple(replace(s, told=s.told or _overdue(s, turn.now)) for s in sections))


def _overdue(section: Section, now: float) -> bool:
    return section.until is not None and section.until <= now and not section.told


def _condemn(turn: Turn, cause: str, text: str) -> None:
    turn.say(NORMAL, text)
    turn.abandon_dump(text)
    _amend(turn, condemned=cause)
    turn.emit(KillCapsule(turn.state.incarnation.number))


def _refuse(turn: Turn, event: RollbackRequested, why: str) -> None:
    turn.emit(Answer(event.waiter, None, why))


def _amend(turn: Turn, **fields: object) -> None:
    turn.change(incarnation=replace(turn.state.incarnation, **fields))  # type: ignore[arg-type]
