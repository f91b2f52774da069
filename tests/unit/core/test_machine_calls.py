"""What the job says of itself: critical sections, heartbeats, rollbacks, figures."""

from __future__ import annotations

import pytest
from driving import KILLED, Machine

from ckptrun.core import commands as c
from ckptrun.core import events as e
from ckptrun.core.config import RestartPolicy
from ckptrun.core.machine import story
from ckptrun.core.state import Phase


def enter(machine: Machine, now: float, name: str = "s", seconds: float = 60.0, waiter: int = 50) -> Machine:
    return machine.feed(e.CriticalEntered(now, machine.state.incarnation.number, name, seconds, waiter))


def leave(machine: Machine, now: float, name: str = "s") -> Machine:
    return machine.feed(e.CriticalLeft(now, machine.state.incarnation.number, name))


def test_a_section_is_entered_at_once_when_no_dump_is_in_flight() -> None:
    machine = enter(Machine().running(), 1.0)
    assert machine.the(c.Answer) == c.Answer(50, "s", None)


def test_no_dump_begins_in_a_section_and_the_wanted_one_begins_at_its_end() -> None:
    machine = enter(Machine().running(), 1.0).feed(e.CheckpointRequested(2.0), e.Tick(30.0))
    assert not [k for k in machine.all if isinstance(k, c.TakeCheckpoint)]
    leave(machine, 31.0)
    assert machine.the(c.TakeCheckpoint)


def test_every_section_must_be_left() -> None:
    machine = enter(enter(Machine().running(), 1.0, "a"), 1.0, "b").feed(e.CheckpointRequested(2.0))
    assert not leave(machine, 3.0, "a").sent(c.TakeCheckpoint)
    assert leave(machine, 4.0, "b").sent(c.TakeCheckpoint)


@pytest.mark.parametrize("ended", ["finished", "failed"])
def test_a_section_entered_while_a_dump_is_in_flight_is_answered_after_it(ended: str) -> None:
    machine = Machine().running().feed(e.CheckpointRequested(1.0))
    name = machine.the(c.TakeCheckpoint).id
    enter(machine, 1.5, seconds=10.0).feed(e.CheckpointRequested(1.6))
    assert not [k for k in machine.all if isinstance(k, c.Answer)]
    machine.feed(e.DumpFinished(5.0, name, 0.1, 1) if ended == "finished" else e.DumpFailed(5.0, name, "no"))
    assert machine.the(c.Answer) == c.Answer(50, "s", None)
    assert not machine.sent(c.TakeCheckpoint)
    assert machine.state.incarnation.sections[0].until == 15.0


def test_a_section_that_outlives_its_time_is_said_once_and_holds_nothing_back_any_more() -> None:
    machine = enter(Machine().running(), 1.0, seconds=5.0).feed(e.CheckpointRequested(2.0))
    machine.feed(e.Tick(6.0))
    assert machine.the(c.TakeCheckpoint)
    assert "has lasted 5 s" in machine.the(c.Say).text
    machine.feed(e.Tick(7.0), e.Tick(30.0))
    assert machine.said.count("critical section") == 1


def test_sections_end_with_their_incarnation_and_whoever_waits_is_told() -> None:
    machine = Machine().running()
    machine.committed(1.0)
    machine.feed(e.CheckpointRequested(2.0))
    enter(enter(machine, 2.1, "a", waiter=51), 2.2, "b", waiter=52).fails(3.0, KILLED)
    assert {k.waiter for k in machine.sent(c.Answer) if k.error} == {51, 52}
    assert machine.state.incarnation.sections == ()


def test_a_stop_waits_for_a_section_within_its_share_of_the_grace() -> None:
    machine = enter(Machine().running(), 1.0).feed(e.StopRequested(2.0, 10.0, 15))
    assert not [k for k in machine.all if isinstance(k, c.TakeCheckpoint)]
    assert leave(machine, 5.0).the(c.TakeCheckpoint).hold
    late = enter(Machine().running(), 1.0).feed(e.StopRequested(2.0, 10.0, 15), e.Tick(9.0))
    assert late.the(c.SignalJob).signum == 15


def silent(within: float = 10.0) -> Machine:
    machine = Machine(interval=None).running()
    machine.committed(1.0)
    return machine.feed(e.Beat(2.0, 1, within))


def test_a_job_that_promised_nothing_may_be_silent() -> None:
    machine = Machine().running().feed(e.Beat(1.0, 1), e.Tick(10_000.0))
    assert not machine.sent(c.KillCapsule)


def test_a_lost_heartbeat_kills_the_job_and_it_is_restored() -> None:
    machine = silent().feed(e.Tick(11.9))
    assert not machine.sent(c.KillCapsule)
    machine.feed(e.Tick(12.0))
    assert machine.the(c.KillCapsule).incarnation == 1
    assert "no heartbeat for 10 s" in machine.said
    machine.feed(e.CapsuleGone(12.5, 1))
    assert machine.the(c.RestoreJob)
    assert machine.state.last_failure.cause == "heartbeat"
    assert "ended with a lost heartbeat" in machine.said


def test_every_heartbeat_renews_the_promise_and_may_change_it() -> None:
    machine = silent().feed(e.Beat(11.0, 1), e.Tick(20.9), e.Beat(20.9, 1, 100.0), e.Tick(120.8))
    assert not [k for k in machine.all if isinstance(k, c.KillCapsule)]
    assert machine.feed(e.Tick(120.9)).sent(c.KillCapsule)


def test_the_time_of_a_dump_is_no_silence() -> None:
    machine = silent().feed(e.CheckpointRequested(3.0))
    name = machine.the(c.TakeCheckpoint).id
    machine.feed(e.Tick(100.0), e.DumpFinished(101.0, name, 98.0, 1), e.Tick(110.9))
    assert not [k for k in machine.all if isinstance(k, c.KillCapsule)]
    assert machine.feed(e.Tick(111.0)).sent(c.KillCapsule)


def test_a_promise_ends_with_its_incarnation() -> None:
    machine = silent().fails(3.0).restored(4.0).feed(e.Tick(1000.0))
    assert not [k for k in machine.all if isinstance(k, c.KillCapsule)]


def test_a_job_that_hangs_again_and_again_is_given_up() -> None:
    machine = silent()
    machine.feed(e.Tick(12.0), e.CapsuleGone(12.5, 1)).restored(13.0)
    machine.feed(e.Beat(13.0, 2, 10.0), e.Tick(23.0), e.CapsuleGone(23.5, 2))
    assert machine.finish == ("job", 137, "failed")


def test_a_job_that_ends_well_before_the_kill_has_ended_well() -> None:
    assert silent().feed(e.Tick(12.0)).fails(12.1, e.Outcome(code=0)).finish == ("job", 0, "finished")


def ask(machine: Machine, now: float, reason: str = "loss is nan", waiter: int = 70) -> Machine:
    return machine.feed(e.RollbackRequested(now, machine.state.incarnation.number, reason, waiter))


def test_a_rollback_kills_and_restores_the_newest_checkpoint_at_once() -> None:
    machine = Machine().running()
    machine.committed(1.0)
    newest = machine.staged(2.0)
    ask(machine, 3.0)
    assert machine.the(c.KillCapsule)
    assert machine.the(c.Answer) == c.Answer(70, newest, None)
    machine.fails(3.1, KILLED)
    assert machine.the(c.RestoreJob).checkpoint == newest


def test_a_rollback_gives_a_dump_in_flight_up() -> None:
    machine = Machine().running()
    machine.committed(1.0)
    machine.feed(e.CheckpointRequested(2.0, 9))
    ask(machine, 3.0)
    assert machine.sent(c.AbandonDump)
    assert {(k.waiter, k.error is None) for k in machine.sent(c.Answer)} == {(9, False), (70, True)}
    assert not machine.feed(e.CheckpointRequested(3.05)).sent(c.TakeCheckpoint)


def test_a_rollback_that_repeats_itself_steps_back_and_gives_up() -> None:
    machine = Machine().running()
    older = machine.committed(1.0)
    machine.committed(2.0)
    ask(machine, 3.0).fails(3.1, KILLED).restored(4.0)
    ask(machine, 5.0).fails(5.1, KILLED)
    machine.restored(10.0)
    assert machine.state.incarnation.origin == older
    for now in (20.0, 40.0):
        if machine.finish is None:
            ask(machine, now).fails(now + 0.1, KILLED)
            if machine.finish is None:
                machine.restored(now + 10)
    assert machine.finish == ("job", 137, "failed")
    assert "rollback: loss is nan" in machine.said


def test_rollbacks_for_different_reasons_are_different_failures() -> None:
    machine = Machine().running()
    machine.committed(1.0)
    for number in range(4):
        ask(machine, 10.0 * number + 3, f"reason {number}").fails(10.0 * number + 4, KILLED)
        machine.restored(10.0 * number + 5)
    assert machine.finish is None


@pytest.mark.parametrize(
    ("config", "stopped", "why"),
    [
        ({}, False, "no checkpoint"),
        ({"restart": RestartPolicy.NEVER}, False, "--restart never"),
        ({}, True, "stopping"),
    ],
)
def test_a_rollback_is_refused_where_nothing_would_be_restored(
    config: dict[str, object], stopped: bool, why: str
) -> None:
    machine = Machine(**config).running()
    if config or stopped:
        machine.committed(1.0)
    if stopped:
        machine.feed(e.StopRequested(2.0, 30.0, 15))
    ask(machine, 3.0)
    assert why in (machine.the(c.Answer).error or "")
    assert not machine.sent(c.KillCapsule)
    assert machine.state.incarnation.alive


def test_a_job_that_is_being_killed_is_killed_once() -> None:
    machine = Machine().running()
    machine.committed(1.0)
    ask(machine, 2.0)
    assert "killed already" in (ask(machine, 2.1, waiter=71).the(c.Answer).error or "")
    machine.feed(e.Fenced(2.2, "taken over"), e.CapsuleGone(2.3, 1))
    assert len([k for k in machine.all if isinstance(k, c.KillCapsule)]) == 1
    assert machine.state.phase is Phase.ENDED


def test_the_newest_figures_of_an_incarnation_go_with_its_next_checkpoint() -> None:
    machine = Machine().running()
    machine.feed(e.Reported(1.0, 1, {"loss": 0.5, "step": 1.0}), e.Reported(2.0, 1, {"loss": 0.25}))
    machine.feed(e.CheckpointRequested(3.0))
    taken = machine.the(c.TakeCheckpoint)
    assert taken.metrics == {"loss": 0.25, "step": 1.0}
    machine.feed(e.DumpFinished(3.1, taken.id, 0.1, 1)).fails(4.0).restored(5.0)
    machine.feed(e.CheckpointRequested(6.0))
    assert machine.the(c.TakeCheckpoint).metrics == {}


def test_what_a_job_says_again_and_again_is_not_in_the_story() -> None:
    machine = Machine(interval=None).running()
    for now in range(100):
        machine.feed(e.Beat(1.0 + now, 1, 9.0), e.Reported(1.0 + now, 1, {"loss": 1.0}))
        leave(enter(machine, 1.0 + now), 1.0 + now)
    assert "Begin" in story(machine.state)


@pytest.mark.parametrize("late", [e.Beat(9.0, 1, 1.0), e.Reported(9.0, 1, {}), e.CriticalLeft(9.0, 1, "s")])
def test_what_an_incarnation_said_that_has_ended_changes_nothing(late: e.Event) -> None:
    machine = Machine().running()
    machine.committed(5.0)
    machine.fails(6.0).restored(7.0)
    before = machine.state.incarnation
    assert machine.feed(late).last == ()
    assert machine.state.incarnation == before
