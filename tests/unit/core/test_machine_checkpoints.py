"""Dumps, uploads and local copies."""

from __future__ import annotations

from itertools import pairwise

from driving import Machine

from ckptrun.core import commands as c
from ckptrun.core import events as e
from ckptrun.core import plans
from ckptrun.core.model import Trigger


def test_the_first_automatic_checkpoint_is_due_after_30_seconds() -> None:
    machine = Machine().running(now=100.0)
    assert machine.the(c.WakeAt).when == 130.0
    assert machine.feed(e.Tick(130.0)).the(c.TakeCheckpoint).trigger is Trigger.INTERVAL


def test_no_checkpoint_is_taken_before_staging_is_ready() -> None:
    machine = Machine().feed(e.Begin(0.0, plans.Fresh()), e.JobStarted(0.0, 1), e.Tick(60.0))
    assert not machine.sent(c.TakeCheckpoint)
    assert machine.feed(e.StagingReady(61.0)).the(c.TakeCheckpoint)


def test_a_checkpoint_by_time_waits_for_the_pending_upload() -> None:
    machine = Machine(interval=10.0).running()
    machine.feed(e.Tick(10.0), e.DumpFinished(11.0, "t0001", 0.1, 4096), e.Tick(20.0))
    assert not machine.sent(c.TakeCheckpoint)
    assert machine.feed(e.Committed(25.0, "t0001", 1, 14.0)).the(c.TakeCheckpoint).id == "t0002"


def test_a_request_is_dumped_while_an_upload_runs_and_uploaded_after_it() -> None:
    machine = Machine().running()
    machine.staged(1.0)
    second = machine.staged(2.0)
    assert not machine.sent(c.Upload)
    assert machine.feed(e.Committed(5.0, "t0001", 1, 4.0)).the(c.Upload).id == second


def test_requests_during_a_dump_share_the_next_one() -> None:
    machine = Machine(local_slots=3).running().feed(e.CheckpointRequested(1.0, 1))
    machine.feed(e.CheckpointRequested(1.1, 2), e.CheckpointRequested(1.2, 3))
    assert not machine.last
    machine.feed(e.DumpFinished(2.0, "t0001", 0.1, 4096))
    assert machine.the(c.TakeCheckpoint).id == "t0002"
    machine.feed(e.Committed(3.0, "t0001", 1, 1.0))
    assert machine.sent(c.Answer) == [c.Answer(1, "t0001", None)]
    machine.feed(e.DumpFinished(4.0, "t0002", 0.1, 4096), e.Committed(5.0, "t0002", 2, 1.0))
    assert machine.sent(c.Answer) == [c.Answer(2, "t0002", None), c.Answer(3, "t0002", None)]


def test_who_does_not_wait_for_the_commit_is_answered_when_it_is_staged() -> None:
    machine = Machine().running().feed(e.CheckpointRequested(1.0, 1, wait=False))
    assert machine.feed(e.DumpFinished(2.0, "t0001", 0.1, 4096)).the(c.Answer).id == "t0001"


def test_a_failed_request_is_answered_with_the_reason() -> None:
    machine = Machine().running().feed(e.CheckpointRequested(1.0, 1))
    answer = machine.feed(e.DumpFailed(2.0, "t0001", "a TCP connection")).the(c.Answer)
    assert answer.id is None
    assert "a TCP connection" in answer.error


def test_a_dump_cut_short_by_the_jobs_end_is_no_failure_of_dumps() -> None:
    machine = Machine(interval=30.0).running().feed(e.CheckpointRequested(1.0, 1))
    machine.feed(e.DumpFailed(2.0, "t0001", e.JOB_ENDED, job_ended=True))
    assert e.JOB_ENDED in machine.the(c.Answer).error
    assert not any("runs on" in say.text for say in machine.sent(c.Say))
    assert machine.state.cadence.failures == 0
    assert machine.state.cadence.due is not None


def test_a_dump_that_is_given_up_is_recorded_with_the_reason() -> None:
    machine = Machine().running().feed(e.CheckpointRequested(1.0, 1)).fails(2.0)
    (failed,) = [r.fields for r in machine.sent(c.Record) if r.event == "checkpoint-failed"]
    assert (failed["id"], failed["reason"]) == ("t0001", e.JOB_ENDED)
    machine.feed(e.DumpFailed(3.0, "t0001", e.JOB_ENDED, job_ended=True))
    assert not [r for r in machine.last if isinstance(r, c.Record) and r.event == "checkpoint-failed"]


def test_the_oldest_committed_copy_makes_room_for_a_dump() -> None:
    machine = Machine(local_slots=2).running()
    first = machine.committed(1.0)
    machine.committed(2.0)
    machine.feed(e.CheckpointRequested(3.0))
    assert [type(x) for x in machine.last] == [c.DropLocal, c.TakeCheckpoint]
    assert machine.the(c.DropLocal).id == first


def test_a_dump_waits_while_no_copy_can_be_dropped() -> None:
    machine = Machine(local_slots=1).running()
    machine.staged(1.0)
    machine.feed(e.CheckpointRequested(2.0))
    assert not machine.last
    machine.feed(e.Committed(3.0, "t0001", 1, 2.0))
    assert machine.the(c.DropLocal).id == "t0001"
    assert machine.the(c.TakeCheckpoint).id == "t0002"


def test_a_failed_upload_is_tried_again_ever_more_rarely() -> None:
    machine = Machine(interval=None).running()
    machine.staged(1.0)
    pauses = []
    for _ in range(8):
        failed = machine.state.now + 1
        machine.feed(e.CommitFailed(failed, "t0001", "timeout", transient=True))
        pauses.append(machine.the(c.WakeAt).when - failed)
        assert machine.feed(e.Tick(failed + pauses[-1])).the(c.Upload).id == "t0001"
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


def test_while_the_store_fails_a_newer_checkpoint_replaces_the_one_that_waits() -> None:
    machine = Machine().running()
    machine.feed(e.CheckpointRequested(1.0, 9), e.DumpFinished(1.0, "t0001", 0.1, 4096))
    machine.feed(e.CommitFailed(2.0, "t0001", "timeout", transient=True), e.CheckpointRequested(2.5))
    machine.feed(e.DumpFinished(2.6, "t0002", 0.1, 4096))
    assert machine.the(c.DropLocal).id == "t0001"
    machine.feed(e.Tick(3.0), e.Committed(4.0, "t0002", 1, 1.0))
    assert machine.the(c.Answer) == c.Answer(9, "t0002", None)


def test_a_refused_checkpoint_is_kept_in_memory_until_a_newer_one_is_complete() -> None:
    machine = Machine().running()
    machine.feed(e.CommitFailed(2.0, machine.staged(1.0), "no space", transient=False)).fails(3.0)
    assert machine.the(c.RestoreJob).checkpoint == "t0001"
    machine.restored(4.0)
    machine.staged(5.0)
    assert machine.the(c.DropLocal).id == "t0001"


def test_an_upload_goes_on_while_the_job_is_restored() -> None:
    machine = Machine().running()
    name = machine.staged(1.0)
    machine.fails(2.0).feed(e.Committed(3.0, name, 1, 2.0)).restored(4.0)
    assert machine.state.committed


def test_a_dump_that_always_fails_backs_off() -> None:
    machine = Machine(interval=1.0).running()
    tries = []
    while len(tries) < 9:
        machine.feed(e.Tick(machine.state.wake))
        tries.append(machine.state.now)
        machine.feed(e.DumpFailed(machine.state.now, machine.the(c.TakeCheckpoint).id, "no"))
    gaps = [b - a for a, b in pairwise(tries)]
    assert gaps == [10, 20, 40, 80, 160, 320, 600, 600]


def test_a_skipped_dump_is_tried_again_when_the_hook_says() -> None:
    machine = Machine().running().feed(e.Tick(30.0))
    machine.feed(e.DumpFailed(30.1, "t0001", "critical section", skipped=True, retry_after=4.0))
    assert machine.the(c.WakeAt).when == 34.1


def test_a_dump_skipped_for_want_of_room_is_said_the_first_time_in_a_row() -> None:
    machine = Machine().running().feed(e.Tick(30.0))
    machine.feed(e.DumpFailed(30.1, "t0001", "the disk is nearly full", skipped=True))
    assert machine.the(c.Say).level == c.NORMAL
    machine.feed(e.Tick(40.1)).feed(e.DumpFailed(40.2, "t0002", "the disk is nearly full", skipped=True))
    assert machine.the(c.Say).level == c.DETAIL


def test_a_tick_that_comes_early_does_not_lose_the_alarm() -> None:
    machine = Machine().running().feed(e.Tick(29.999))
    assert machine.the(c.WakeAt).when == 30.0
