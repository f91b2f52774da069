"""Critical sections of the job's: no dump begins while one is open. Handlers of the machine's table.

Sections of several threads or processes may overlap without an end. So once a dump that is wanted has been held back
for `PATIENCE` seconds, newcomers wait outside while those inside leave, but for no longer than `WINDOW` seconds: one
inside may be waiting for one outside. What is entered inside another section of the same process never waits.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptrun.core import checkpointing
from ckptrun.core.commands import DETAIL, NORMAL, Answer
from ckptrun.core.incarnation import HeldBack, Section
from ckptrun.core.state import Phase

if TYPE_CHECKING:
    from ckptrun.core.events import CriticalEntered, CriticalLeft
    from ckptrun.core.state import State
    from ckptrun.core.turn import Turn

PATIENCE = 10.0
"""Seconds for which a wanted dump is held back before newcomers wait outside, and between two times that they do."""
WINDOW = 2.0
"""Seconds for which newcomers wait outside, at most."""
MOST = 1024
"""Sections of one incarnation at a time."""
NAMED = 5
"""Sections that a sentence names."""


def entered(turn: Turn, event: CriticalEntered) -> None:
    """A section in which no dump begins; whoever enters it waits for the dump in flight."""
    others = tuple(s for s in turn.state.incarnation.sections if s.name != event.section)
    if len(others) >= MOST:
        if event.waiter is not None:
            turn.emit(Answer(event.waiter, None, f"the job is in {MOST} critical sections already"))
        return
    section = Section(
        event.section, event.seconds, None, event.waiter, what=event.what, pid=event.pid, nested=event.nested
    )
    _amend(turn, sections=(*others, section))


def left(turn: Turn, event: CriticalLeft) -> None:
    """A section's end: dumps may begin again."""
    sections = turn.state.incarnation.sections
    _amend(turn, sections=tuple(s for s in sections if s.name != event.section))
    if event.waiter is not None:
        turn.emit(Answer(event.waiter, event.section, None))
    waiting = (s.waiter for s in sections if s.name == event.section)
    turn.emit(*(Answer(waiter, None, "the section was left") for waiter in waiting if waiter is not None))


def settle(turn: Turn) -> None:
    """Let in who may go in now, and say what has lasted too long."""
    if not _matter(turn.state):
        return
    job, now = turn.state.incarnation, turn.now
    inside, wanted, before = job.in_section(now), checkpointing.wanted(turn.state), job.held
    held = _held_back(before, turn.state) if wanted and inside else None
    if held != before:
        _amend(turn, held=held)
    dump_first = wanted and not inside and before is not None and before.keeps_out(now)
    if turn.state.dump is None and not dump_first:
        _let_in(turn, nested_only=held is not None and held.keeps_out(now))
    if held is not None and not held.told and now >= held.since + PATIENCE:
        _say_held_back(turn, held)
    if any(_overdue(s, now) for s in turn.state.incarnation.sections):
        _say_overdue(turn)


def alarms(state: State) -> list[float]:
    """Return when a section has lasted too long, and what is due while a dump is held back."""
    if not _matter(state):
        return []
    ends = [s.until for s in state.incarnation.sections if s.until is not None and not s.told]
    held = state.incarnation.held
    if held is None:
        return ends
    told = [] if held.told else [held.since + PATIENCE]
    return [*ends, *told, held.shut_until if held.keeps_out(state.now) else held.shut_from]


def _matter(state: State) -> bool:
    return state.phase in (Phase.RUNNING, Phase.STOPPING) and state.incarnation.alive


def _held_back(held: HeldBack | None, state: State) -> HeldBack:
    """Return how a dump stands that is being held back; a stop's last one has no time to be patient first."""
    now, urgent = state.now, state.phase is Phase.STOPPING
    if held is None:
        shut_from = now if urgent else now + PATIENCE
        return HeldBack(now, shut_from, shut_from + WINDOW, urgent)
    if urgent and not held.urgent:
        return replace(held, shut_from=now, shut_until=now + WINDOW, urgent=True)
    if now >= held.shut_until:
        return replace(held, shut_from=now + PATIENCE, shut_until=now + PATIENCE + WINDOW)
    return held


def _let_in(turn: Turn, *, nested_only: bool) -> None:
    sections = turn.state.incarnation.sections
    going = [s for s in sections if s.until is None and not (nested_only and not _nested(s, turn))]
    if not going:
        return
    names = {s.name for s in going}
    _amend(
        turn,
        sections=tuple(
            replace(s, until=turn.now + s.seconds, waiter=None) if s.name in names else s for s in sections
        ),
    )
    turn.emit(*(Answer(s.waiter, s.name, None) for s in going if s.waiter is not None))


def _nested(section: Section, turn: Turn) -> bool:
    """Whether it is entered inside another one that keeps the dump from beginning: to wait for it would be for ever."""
    others = turn.state.incarnation.sections
    return section.nested and any(s.pid == section.pid and s.holds(turn.now) for s in others)


def _say_held_back(turn: Turn, held: HeldBack) -> None:
    now, job = turn.now, turn.state.incarnation
    inside = sorted((s for s in job.sections if s.holds(now)), key=lambda s: -s.lasts(now))
    turn.record(
        "checkpoint-held-back",
        seconds=now - held.since,
        by=[{"section": s.name, "what": s.what, "seconds": s.lasts(now)} for s in inside[:NAMED]],
        sections=len(inside),
    )
    names = [f"{s.what or s.name} (for {s.lasts(now):.0f} s)" for s in inside[:NAMED]]
    more = [f"{len(inside) - NAMED} more"] if len(inside) > NAMED else []
    turn.say(
        DETAIL if job.held_told else NORMAL,
        f"a checkpoint has been held back for {PATIENCE:g} s by the job: {', '.join([*names, *more])}; until it is "
        f"taken, who enters a critical section or an effect waits up to {WINDOW:g} s now and then. "
        "Make them shorter, or leave pauses in which none is open",
    )
    _amend(turn, held=replace(held, told=True), held_told=True)


def _say_overdue(turn: Turn) -> None:
    sections = turn.state.incarnation.sections
    for section in sections:
        if _overdue(section, turn.now):
            turn.record("critical-overdue", section=section.name, seconds=section.seconds, what=section.what)
            turn.say(
                NORMAL,
                f"a critical section of the job's has lasted {section.seconds:g} s: checkpoints are taken all the same",
            )
    _amend(turn, sections=tuple(replace(s, told=s.told or _overdue(s, turn.now)) for s in sections))


def _overdue(section: Section, now: float) -> bool:
    return section.until is not None and section.until <= now and not section.told


def _amend(turn: Turn, **fields: object) -> None:
    turn.change(incarnation=replace(turn.state.incarnation, **fields))  # type: ignore[arg-type]
