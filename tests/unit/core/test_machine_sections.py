"""Critical sections that overlap: a wanted checkpoint is held back for a while, not for ever."""

from __future__ import annotations

import pytest
from driving import Machine

from ckptrun.core import commands as c
from ckptrun.core import events as e
from ckptrun.core import sections
from ckptrun.core.sections import PATIENCE, WINDOW


def enter(machine: Machine, now: float, name: str, pid: int = 7, *, nested: bool = False) -> Machine:
    """Enter a section; whoever waits for it is its name's hash."""
    number = machine.state.incarnation.number
    what = f"train.py:{name} in process {pid}"
    return machine.feed(e.CriticalEntered(now, number, name, 60.0, waiter(name), what, pid, nested))


def leave(machine: Machine, now: float, name: str) -> Machine:
    return machine.feed(e.CriticalLeft(now, machine.state.incarnation.number, name))


def waiter(name: str) -> int:
    return sum(256**i * byte for i, byte in enumerate(name.encode()))


def is_in(machine: Machine, name: str) -> bool:
    """Whether a section was answered, and not with an error."""
    return c.Answer(waiter(name), name, None) in machine.all


def held(now: float = 0.0) -> Machine:
    """A job in section a, and a checkpoint that is wanted from `now` on and has waited as long as it may."""
    machine = enter(Machine(interval=None).running(now), now, "a")
    return machine.feed(e.CheckpointRequested(now), e.Tick(now + PATIENCE))


def test_before_a_checkpoint_has_waited_for_long_everybody_may_enter() -> None:
    machine = enter(Machine(interval=None).running(), 0.0, "a").feed(e.CheckpointRequested(0.0))
    assert is_in(enter(machine, PATIENCE - 0.1, "b"), "b")
    assert "held back" not in machine.said


def test_newcomers_wait_outside_and_the_checkpoint_is_taken_before_they_enter() -> None:
    machine = enter(held(), PATIENCE + 0.1, "b")
    assert not is_in(machine, "b")
    name = leave(machine, PATIENCE + 0.2, "a").the(c.TakeCheckpoint).id
    assert not is_in(machine, "b")
    machine.feed(e.DumpFinished(PATIENCE + 0.3, name, 0.1, 1))
    assert is_in(machine, "b")


def test_who_waits_outside_goes_in_when_the_window_is_over_and_waits_again_later() -> None:
    machine = enter(held(), PATIENCE + 0.1, "b")
    over = PATIENCE + WINDOW
    assert machine.state.wake == over
    machine.feed(e.Tick(over))
    assert is_in(machine, "b"), "a may wait for b"
    assert is_in(enter(machine, over + 1.0, "c"), "c")
    machine.feed(e.Tick(over + PATIENCE))
    assert not is_in(enter(machine, over + PATIENCE + 0.1, "d"), "d")
    for name in ("a", "b", "c"):
        leave(machine, over + PATIENCE + 0.2, name)
    assert machine.the(c.TakeCheckpoint)


def test_what_is_entered_inside_another_section_of_the_process_does_not_wait_for_it() -> None:
    assert is_in(enter(held(), PATIENCE + 0.1, "b", nested=True), "b")


def test_another_process_may_call_itself_nested_and_waits_all_the_same() -> None:
    assert not is_in(enter(held(), PATIENCE + 0.1, "b", pid=8, nested=True), "b")


def test_who_is_nested_in_a_section_whose_time_is_over_waits_like_everybody() -> None:
    machine = held()
    machine.feed(e.CriticalEntered(PATIENCE, 1, "short", 0.5, 1, "", 9, nested=True), e.Tick(PATIENCE))
    machine.feed(e.Tick(PATIENCE + WINDOW), e.Tick(PATIENCE + WINDOW + 0.5))
    again = machine.state.incarnation.held.shut_from
    machine.feed(e.Tick(again))
    assert not is_in(enter(machine, again + 0.1, "b", pid=9, nested=True), "b")


def test_the_user_is_told_once_which_sections_hold_and_since_when() -> None:
    machine = held()
    enter(machine, PATIENCE + WINDOW, "b")
    machine.feed(e.Tick(PATIENCE + WINDOW), e.Tick(2 * PATIENCE + WINDOW))
    assert machine.said.count("held back") == 1
    assert f"held back for {PATIENCE:g} s by the job: train.py:a in process 7 (for 10 s);" in machine.said
    (record,) = (k for k in machine.all if isinstance(k, c.Record) and k.event == "checkpoint-held-back")
    assert record.fields["by"] == [{"section": "a", "what": "train.py:a in process 7", "seconds": PATIENCE}]
    name = [leave(machine, 30.0, x) for x in ("a", "b")][-1].the(c.TakeCheckpoint).id
    machine.feed(e.DumpFinished(30.1, name, 0.1, 1))
    enter(machine, 31.0, "c").feed(e.CheckpointRequested(31.0), e.Tick(31.0 + PATIENCE))
    assert machine.the(c.Say).level == c.DETAIL, "loud once is enough"


def test_a_checkpoint_by_time_counts_as_held_back_from_the_moment_it_is_due() -> None:
    machine = enter(Machine(interval=100.0).running(), 95.0, "a")
    assert machine.state.wake == 100.0
    machine.feed(e.Tick(100.0))
    assert machine.state.wake == 100.0 + PATIENCE
    machine.feed(e.Tick(100.0 + PATIENCE))
    assert "held back" in machine.said


def test_a_stops_last_checkpoint_has_no_time_to_be_patient_first() -> None:
    machine = enter(Machine(interval=None).running(), 0.0, "a").feed(e.StopRequested(1.0, 30.0, 15))
    enter(machine, 1.1, "b")
    assert not is_in(machine, "b")
    machine.feed(e.Tick(1.0 + WINDOW))
    assert is_in(machine, "b")


def test_a_stop_has_newcomers_wait_also_where_a_checkpoint_was_held_back_before() -> None:
    machine = enter(Machine(interval=None).running(), 0.0, "a").feed(e.CheckpointRequested(0.0))
    machine.feed(e.StopRequested(5.0, 30.0, 15))
    assert not is_in(enter(machine, 5.1, "b"), "b")


def test_who_waits_outside_goes_in_once_nobody_wants_the_checkpoint_any_more() -> None:
    machine = enter(Machine(interval=None).running(), 0.0, "a").feed(e.StopRequested(1.0, 10.0, 15))
    machine.feed(e.Tick(7.9))  # the share of the last checkpoint is nearly over
    shut = machine.state.incarnation.held.shut_from
    machine.feed(e.Tick(shut)) if shut < 8.0 else None
    enter(machine, 7.95, "b").feed(e.Tick(8.0))
    assert machine.sent(c.SignalJob)
    assert is_in(machine, "b")


@pytest.mark.parametrize("waits", [False, True])
def test_a_section_whose_process_has_ended_is_left_inside_or_outside(waits: bool) -> None:
    machine = enter(held(), PATIENCE + 0.1, "b")
    gone = ("b", "a") if waits else ("a", "b")
    for name in gone:
        leave(machine, PATIENCE + 0.2, name)
    assert [k for k in machine.all if isinstance(k, c.TakeCheckpoint)]


def test_the_sections_of_an_incarnation_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "MOST", 20)
    machine = Machine(interval=None).running()
    for number in range(20):
        enter(machine, 1.0, f"s{number}")
    enter(machine, 1.0, "more")
    assert "critical sections already" in (machine.the(c.Answer).error or "")
    assert len(machine.state.incarnation.sections) == 20
