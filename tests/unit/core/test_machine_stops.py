"""A stop: checkpoint, commit, end, all within the grace."""

from __future__ import annotations

import pytest
from driving import KILLED, Machine

from ckptrun.core import commands as c
from ckptrun.core import events as e
from ckptrun.core import plans
from ckptrun.core.model import Trigger


def stopping(machine: Machine, now: float = 10.0, grace: float = 30.0) -> Machine:
    return machine.feed(e.StopRequested(now, grace, 15))


def held(machine: Machine) -> str:
    name = stopping(machine).the(c.TakeCheckpoint).id
    machine.feed(e.DumpFinished(11.0, name, 1.0, 4096))
    return name


def test_the_job_is_held_until_its_last_checkpoint_is_committed_and_then_killed() -> None:
    machine = Machine().running()
    take = stopping(machine).the(c.TakeCheckpoint)
    assert (take.trigger, take.hold, take.deadline) == (Trigger.PREEMPTION, True, 31.0)
    assert machine.feed(e.DumpFinished(11.0, take.id, 1.0, 4096)).the(c.Upload).id == take.id
    assert machine.feed(e.Committed(12.0, take.id, 1, 1.0)).the(c.KillCapsule).incarnation == 1
    assert machine.finish is None
    assert machine.feed(e.CapsuleGone(12.1, 1)).finish == ("ckptrun", 75, "interrupted")


def test_a_dump_in_flight_ends_before_the_last_one_begins() -> None:
    machine = Machine().running().feed(e.CheckpointRequested(9.0))
    assert not stopping(machine).sent(c.TakeCheckpoint)
    machine.feed(e.DumpFinished(11.0, "t0001", 1.0, 4096))
    assert machine.the(c.TakeCheckpoint).hold


def test_a_checkpoint_before_a_preemption_stops_nothing_and_is_not_taken_for_the_last_one() -> None:
    machine = Machine(interval=None).running()
    take = machine.feed(e.CheckpointRequested(9.0, trigger=Trigger.PREEMPTION)).the(c.TakeCheckpoint)
    assert (take.trigger, take.hold, take.deadline) == (Trigger.PREEMPTION, False, None)
    stopping(machine).feed(e.DumpFinished(11.0, take.id, 1.0, 4096))
    assert machine.the(c.TakeCheckpoint).hold
    early = Machine(interval=None).running().feed(e.CheckpointRequested(9.0, trigger=Trigger.PREEMPTION))
    failed = stopping(early).feed(e.DumpFailed(11.0, "t0001", "a TCP connection"))
    assert failed.the(c.TakeCheckpoint).hold


def test_the_last_checkpoint_does_not_queue_behind_others() -> None:
    machine = Machine(local_slots=3).running()
    machine.staged(1.0)
    waiting = machine.staged(2.0)
    last = held(machine)
    assert machine.the(c.DropLocal).id == waiting
    assert machine.feed(e.Committed(12.0, "t0001", 1, 1.0)).the(c.Upload).id == last


def test_if_the_last_dump_fails_the_job_gets_the_signal_and_its_own_exit_code() -> None:
    machine = Machine().running()
    name = stopping(machine).the(c.TakeCheckpoint).id
    assert machine.feed(e.DumpFailed(11.0, name, "a TCP connection")).the(c.SignalJob).signum == 15
    assert machine.fails(12.0, e.Outcome(code=0)).finish == ("job", 0, "finished")


def test_a_job_that_does_not_end_well_after_the_signal_can_be_resumed() -> None:
    machine = Machine().running()
    name = stopping(machine).the(c.TakeCheckpoint).id
    machine.feed(e.DumpFailed(11.0, name, "a TCP connection")).fails(12.0, e.Outcome(signal=15))
    assert machine.finish == ("job", 143, "interrupted")


def test_a_skipped_last_dump_is_tried_again() -> None:
    machine = Machine().running()
    name = stopping(machine).the(c.TakeCheckpoint).id
    machine.feed(e.DumpFailed(11.0, name, "critical section", skipped=True, retry_after=2.0))
    assert machine.the(c.WakeAt).when == 13.0
    assert machine.feed(e.Tick(13.0)).the(c.TakeCheckpoint).hold


def test_a_last_checkpoint_that_takes_too_long_is_given_up_in_time_for_the_signal() -> None:
    machine = Machine().running()
    name = held(machine)
    machine.feed(e.Tick(31.0))
    assert [x for x in machine.last if isinstance(x, c.ReleaseHold | c.SignalJob)] == [
        c.ReleaseHold(name),
        c.SignalJob(15),
    ]
    assert machine.the(c.WakeAt).when == 40.0
    assert machine.feed(e.Tick(40.0)).the(c.KillCapsule)
    assert machine.feed(e.CapsuleGone(40.1, 1)).finish == ("job", 143, "interrupted")


def test_a_last_checkpoint_that_the_store_refuses_is_given_up_at_once() -> None:
    machine = Machine().running()
    machine.feed(e.CommitFailed(12.0, held(machine), "no space", transient=False))
    assert machine.sent(c.ReleaseHold)
    assert machine.sent(c.SignalJob)


def test_a_last_checkpoint_that_the_store_misses_is_uploaded_again() -> None:
    machine = Machine().running()
    name = held(machine)
    machine.feed(e.CommitFailed(12.0, name, "timeout", transient=True))
    assert not machine.sent(c.SignalJob)
    assert machine.feed(e.Tick(13.0)).the(c.Upload).id == name


def test_a_held_job_that_is_killed_still_ends_with_75_once_committed() -> None:
    machine = Machine().running()
    name = held(machine)
    machine.fails(11.5, KILLED)
    assert machine.finish is None
    assert machine.feed(e.Committed(12.0, name, 1, 1.0)).finish == ("ckptrun", 75, "interrupted")


def test_a_second_request_kills_at_once() -> None:
    machine = stopping(Machine().running())
    assert stopping(machine, 10.5).the(c.KillCapsule).incarnation == 1
    assert machine.feed(e.CapsuleGone(10.6, 1)).finish == ("job", 143, "interrupted")


def test_without_grace_the_job_gets_the_signal_and_is_killed() -> None:
    machine = stopping(Machine().running(), grace=0.0)
    assert machine.sent(c.SignalJob)
    assert machine.feed(e.Tick(10.0)).sent(c.KillCapsule)


def test_a_stop_while_the_job_starts_just_kills() -> None:
    machine = stopping(Machine().feed(e.Begin(0.0, plans.Fresh())))
    assert machine.the(c.KillCapsule).incarnation == 1
    assert machine.feed(e.CapsuleGone(10.1, 1)).finish == ("job", 143, "interrupted")


@pytest.mark.parametrize("restoring", [True, False])
def test_a_stop_between_incarnations_asks_to_be_run_again(restoring: bool) -> None:
    machine = Machine().resumed("a")
    if not restoring:
        machine.feed(e.RestoreFailed(1.0, 1, "a", "timeout", transient=True))
    stopping(machine)
    if restoring:
        machine.feed(e.CapsuleGone(10.1, 1))
    assert machine.finish == ("ckptrun", 75, "interrupted")


def test_a_job_that_ends_before_its_last_dump_keeps_its_exit_code() -> None:
    machine = stopping(Machine().running()).fails(10.5, e.Outcome(code=0))
    assert machine.finish == ("job", 0, "finished")


def test_a_late_last_dump_after_the_signal_does_not_keep_the_job_frozen() -> None:
    machine = Machine().running()
    name = stopping(machine).the(c.TakeCheckpoint).id
    assert machine.feed(e.Tick(31.0)).the(c.AbandonDump).id == name
    machine.feed(e.DumpFinished(32.0, name, 1.0, 4096))
    assert machine.last == (c.ReleaseHold(name), c.DropLocal(name))


def test_a_request_during_a_stop_is_refused() -> None:
    assert stopping(Machine().running()).feed(e.CheckpointRequested(10.5, 4)).the(c.Answer).error
