"""The table itself: what is illegal changes nothing, what is late does nothing, and the page shows it."""

from __future__ import annotations

import pytest
from driving import FAILS, Machine
from machine_diagram import PAGE, page

from ckptrun.core import events as e
from ckptrun.core import plans
from ckptrun.core.config import Config
from ckptrun.core.machine import STORY_LENGTH, IllegalEventError, step, story
from ckptrun.core.state import Phase, initial


@pytest.mark.parametrize(
    "event",
    [
        e.Begin(9.0, plans.Fresh()),
        e.JobStarted(9.0, 1),
        e.JobEnded(9.0, 2, FAILS),
        e.DumpFinished(9.0, "t0001", 1.0, 1),
        e.DumpFailed(9.0, "other", "no"),
        e.Committed(9.0, "t0001", 1, 1.0),
        e.RestoreSucceeded(9.0, 1),
    ],
)
def test_an_illegal_event_raises_and_changes_nothing(event: e.Event) -> None:
    machine = Machine().running()
    before = machine.state
    with pytest.raises(IllegalEventError, match=type(event).__name__):
        step(machine.state, event)
    assert machine.state is before
    machine.feed(e.Tick(30.0))


def test_an_illegal_event_tells_the_story() -> None:
    with pytest.raises(IllegalEventError, match=r"Begin: new -> launching \[StartJob\]"):
        Machine().running().feed(e.Begin(9.0, plans.Fresh()))


def test_the_story_is_bounded_and_idle_beats_are_not_in_it() -> None:
    machine = Machine().running()
    for number in range(100):
        machine.feed(e.Tick(1.0), e.CheckpointRequested(1.0, number))
    assert len(machine.state.story) == STORY_LENGTH
    assert "Tick" not in story(machine.state)


@pytest.mark.parametrize(
    "late",
    [e.JobEnded(9.0, 1, FAILS), e.CapsuleGone(9.0, 1), e.JobStarted(9.0, 1), e.RestoreSucceeded(9.0, 1)],
)
def test_a_late_report_about_an_ended_incarnation_does_nothing(late: e.Event) -> None:
    machine = Machine().running()
    machine.committed(5.0)
    machine.fails(6.0).restored(7.0).feed(late)
    assert machine.last == ()
    assert machine.state.phase is Phase.RUNNING


def test_nothing_is_commanded_after_the_end() -> None:
    machine = Machine().running().fails(5.0)
    machine.feed(
        e.Tick(100.0), e.CapsuleGone(100.0, 1), e.CheckpointRequested(100.0, 1), e.Fenced(101.0, "x")
    )
    assert machine.last == ()


def test_a_clock_that_goes_back_is_levelled() -> None:
    machine = Machine().running(now=50.0).feed(e.Tick(40.0))
    assert machine.state.now == 50.0


def test_before_the_beginning_only_a_stop_ends_the_run() -> None:
    state, commands = step(initial(Config("t")), e.StopRequested(0.0, 30.0, 15))
    assert state.phase is Phase.ENDED
    assert commands


def test_the_page_is_drawn_from_the_table() -> None:
    assert PAGE.read_text() == page(), "run python tests/unit/core/machine_diagram.py"
