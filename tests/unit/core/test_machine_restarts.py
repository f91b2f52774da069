"""What follows the end of a job, or of a restore."""

from __future__ import annotations

import pytest
from driving import FAILS, KILLED, Machine

from ckptrun.core import commands as c
from ckptrun.core import events as e
from ckptrun.core import plans
from ckptrun.core.config import RestartPolicy
from ckptrun.core.state import Phase


def test_a_job_that_ends_well_ends_the_run() -> None:
    assert Machine().running().fails(5.0, e.Outcome(code=0)).finish == ("job", 0, "finished")


def test_a_dump_in_flight_is_abandoned_when_the_job_ends_well() -> None:
    machine = Machine().running().feed(e.CheckpointRequested(1.0, 7))
    machine.fails(2.0, e.Outcome(code=0))
    assert machine.the(c.AbandonDump).id == "t0001"
    assert machine.the(c.Answer).error
    assert machine.finish == ("job", 0, "finished")


@pytest.mark.parametrize(("outcome", "code"), [(FAILS, 3), (KILLED, 137), (e.Outcome(signal=11), 139)])
def test_a_job_without_a_checkpoint_is_not_restarted(outcome: e.Outcome, code: int) -> None:
    assert Machine().running().fails(5.0, outcome).finish == ("job", code, "failed")


def test_a_command_that_cannot_start_ends_the_run_with_its_code() -> None:
    machine = Machine().feed(
        e.Begin(0.0, plans.Fresh()), e.StartFailed(0.1, 1, "command 'x' is not there", 127)
    )
    assert machine.finish == ("ckptrun", 127, "failed")
    assert "command 'x' is not there" in machine.said


def test_a_failed_job_is_restored_at_once_from_memory() -> None:
    machine = Machine().running()
    name = machine.committed(5.0)
    machine.fails(6.0)
    assert machine.the(c.RestoreJob) == c.RestoreJob(2, name, local=True)


def test_a_staged_checkpoint_is_restored_before_it_is_committed() -> None:
    machine = Machine().running()
    machine.committed(5.0)
    name = machine.staged(10.0)
    machine.fails(11.0)
    assert machine.the(c.RestoreJob).checkpoint == name


def test_a_staged_checkpoint_whose_copy_is_lost_is_not_restored() -> None:
    machine = Machine().running()
    old = machine.committed(5.0)
    machine.feed(e.StagingLost(10.5, machine.staged(10.0))).fails(11.0)
    assert machine.the(c.RestoreJob).checkpoint == old


def test_a_committed_checkpoint_whose_copy_is_lost_is_restored_from_the_store() -> None:
    machine = Machine().running()
    name = machine.committed(5.0)
    machine.feed(e.StagingLost(6.0, name)).fails(7.0)
    assert machine.the(c.RestoreJob) == c.RestoreJob(2, name, local=False)


def test_a_dump_that_finishes_after_the_job_died_is_dropped() -> None:
    machine = Machine().running()
    old = machine.committed(5.0)
    machine.feed(e.CheckpointRequested(10.0)).fails(10.1)
    assert machine.the(c.AbandonDump).id == "t0002"
    assert machine.the(c.RestoreJob).checkpoint == old
    machine.feed(e.DumpFinished(10.2, "t0002", 0.1, 4096))
    assert machine.last == (c.DropLocal("t0002"),)


def test_two_failures_alike_poison_a_checkpoint() -> None:
    machine = Machine().running()
    older, newer = machine.committed(5.0), machine.committed(10.0)
    machine.fails(11.0).restored(12.0).fails(13.0)
    assert f"checkpoint {newer} is set aside" in machine.said
    machine.feed(e.Tick(machine.state.start_at))
    assert machine.the(c.RestoreJob).checkpoint == older


def test_the_next_run_is_told_to_pass_over_what_was_stepped_back_from() -> None:
    machine = Machine().running()
    machine.committed(5.0)
    newer = machine.committed(10.0)
    machine.fails(11.0).restored(12.0).fails(13.0)
    assert machine.the(c.SetAside) == c.SetAside((newer,))


def test_a_checkpoint_that_is_poisoned_on_its_way_to_the_store_is_set_aside_too() -> None:
    machine = Machine().running()
    machine.committed(5.0)
    newer = machine.staged(10.0)
    machine.fails(11.0).restored(12.0).fails(13.0)
    assert machine.the(c.SetAside) == c.SetAside((newer,))
    machine.feed(e.Committed(14.0, newer, 2, 1.0))
    assert machine.the(c.SetAside) == c.SetAside((newer,)), "once more: it may have been told too early"


def test_what_was_only_in_memory_is_not_set_aside_in_the_store() -> None:
    machine = Machine().running()
    machine.committed(5.0)
    machine.staged(10.0)
    newest = machine.staged(11.0)  # waits for the upload of the one before
    machine.fails(12.0).restored(13.0).fails(14.0)
    assert f"checkpoint {newest} is set aside" in machine.said
    assert not machine.sent(c.SetAside)


def test_when_nothing_is_left_to_step_back_to_nothing_is_set_aside() -> None:
    machine = Machine().running()
    machine.committed(5.0)
    machine.fails(6.0).restored(7.0).fails(8.0)
    assert machine.finish == ("job", 3, "failed")
    assert not [k for k in machine.all if isinstance(k, c.SetAside)]


@pytest.mark.parametrize("committed_while_restoring", [False, True])
def test_a_checkpoint_that_is_committed_after_the_job_went_back_further_is_not_gone_on_from(
    committed_while_restoring: bool,
) -> None:
    machine = Machine().running()
    older = machine.committed(5.0)
    lost = machine.staged(10.0)
    machine.feed(e.StagingLost(10.1, lost)).fails(11.0)
    assert machine.the(c.RestoreJob).checkpoint == older
    committed = e.Committed(11.5, lost, 2, 1.0)
    if committed_while_restoring:
        machine.feed(committed).restored(12.0)
    else:
        machine.restored(12.0).feed(committed)
    assert machine.the(c.SetAside) == c.SetAside((lost,))
    machine.fails(20.0, KILLED)
    machine.feed(e.Tick(machine.state.start_at)) if machine.state.start_at else None
    assert machine.the(c.RestoreJob).checkpoint == older


def test_two_different_failures_do_not_poison() -> None:
    machine = Machine().running()
    name = machine.committed(5.0)
    machine.fails(6.0).restored(7.0).fails(8.0, e.Outcome(code=4)).restored(9.0)
    assert machine.state.incarnation.origin == name


def test_a_newer_checkpoint_starts_the_count_anew() -> None:
    machine = Machine().running()
    machine.committed(5.0)
    machine.fails(6.0).restored(7.0)
    newer = machine.committed(8.0)
    machine.fails(9.0).restored(10.0)
    assert machine.state.incarnation.origin == newer


def test_when_every_checkpoint_is_poisoned_the_run_ends_with_the_jobs_code_and_an_account() -> None:
    machine = Machine().running()
    names = machine.committed(5.0), machine.committed(10.0)
    now = 11.0
    while machine.finish is None:
        machine.fails(now)
        if machine.finish is None:
            machine.restored(now)
        now = machine.state.now + 1
    assert machine.finish == ("job", 3, "failed")
    assert all(f"after {name}: exit code 3 (2 times)" in machine.said for name in names)


def test_kills_from_outside_do_not_poison() -> None:
    machine = Machine().running()
    name = machine.committed(5.0)
    for _ in range(20):
        machine.fails(machine.state.now + 60, KILLED).restored(machine.state.now + 1)
    assert machine.state.incarnation.origin == name


def test_kills_within_a_second_of_the_restore_poison_at_the_fifth() -> None:
    machine = Machine().running()
    older, newer = machine.committed(5.0), machine.committed(10.0)
    machine.fails(60.0, KILLED).restored(61.0)
    for _ in range(4):
        machine.fails(machine.state.now + 0.5, KILLED).restored(machine.state.now)
        assert machine.state.incarnation.origin == newer
    machine.fails(machine.state.now + 0.5, KILLED).restored(machine.state.now)
    assert machine.state.incarnation.origin == older


def test_two_oom_kills_poison() -> None:
    machine = Machine().running()
    machine.committed(5.0)
    oom = e.Outcome(signal=9, oom=True)
    machine.fails(60.0, oom).restored(61.0).fails(120.0, oom)
    assert machine.finish == ("job", 137, "failed")
    assert "the OOM killer" in machine.said


def test_a_job_that_always_fails_at_the_same_point_does_not_go_in_circles() -> None:
    machine = Machine().running()
    progress: dict[str, int] = {}  # checkpoint -> seconds of work done; the job fails at 100, dumped every 30
    done = 0
    while machine.finish is None:
        for point in range(done + 30, 100, 30):
            kept = sorted((c.id for c in machine.state.checkpoints), reverse=True)[:2]
            old = tuple(c.id for c in machine.state.checkpoints if c.id not in kept)
            progress[machine.committed(machine.state.now + 30, expired=old)] = point
        machine.fails(machine.state.now + 10)
        if machine.finish is None:
            machine.restored(machine.state.now)
            done = progress[machine.state.incarnation.origin]
    assert machine.finish == ("job", 3, "failed")
    assert machine.state.restarts <= 20


def test_restarts_are_limited() -> None:
    machine = Machine(max_restarts=2).running()
    for _ in range(3):
        machine.committed(machine.state.now + 50)
        machine.fails(machine.state.now + 1)
        if machine.finish is None:
            machine.restored(machine.state.now + 1)
    assert machine.finish == ("job", 3, "failed")
    assert "--max-restarts" in machine.said


def test_restarts_without_progress_come_ever_more_slowly() -> None:
    machine = Machine().running()
    machine.committed(5.0)
    delays = []
    for _ in range(8):
        machine.fails(machine.state.now + 2, KILLED)
        delays.append((machine.state.start_at or machine.state.now) - machine.state.now)
        machine.restored(machine.state.now)
    assert delays == [0, 1, 2, 4, 8, 16, 30, 30]


def test_nothing_is_restarted_if_the_user_says_never() -> None:
    machine = Machine(restart=RestartPolicy.NEVER).running()
    machine.committed(5.0)
    assert machine.fails(6.0).finish == ("job", 3, "failed")


def test_always_restarts_a_job_that_ended_well() -> None:
    machine = Machine(restart=RestartPolicy.ALWAYS).running()
    name = machine.committed(5.0)
    machine.fails(6.0, e.Outcome(code=0))
    assert machine.the(c.RestoreJob).checkpoint == name


@pytest.mark.parametrize(
    ("outcome", "finish"),
    [
        (e.Outcome(signal=2, after_interrupt=True), ("job", 130, "interrupted")),
        (e.Outcome(code=1, after_interrupt=True), ("job", 1, "interrupted")),
        (e.Outcome(code=0, after_interrupt=True), ("job", 0, "finished")),
    ],
)
@pytest.mark.parametrize("policy", [RestartPolicy.ON_FAILURE, RestartPolicy.ALWAYS])
def test_a_job_that_ends_after_ctrl_c_is_not_restored(
    policy: RestartPolicy, outcome: e.Outcome, finish: tuple[str, int, str]
) -> None:
    machine = Machine(restart=policy).running()
    machine.committed(5.0)
    assert machine.fails(6.0, outcome).finish == finish


def test_a_capsule_that_dies_counts_as_a_killed_job() -> None:
    machine = Machine().running()
    name = machine.committed(5.0)
    machine.feed(e.CapsuleGone(60.0, 1))
    assert machine.the(c.RestoreJob).checkpoint == name


def test_a_restore_that_fails_from_memory_is_tried_from_the_store() -> None:
    machine = Machine().resumed("b", "a", local=True).feed(e.RestoreFailed(1.0, 1, "b", "torn", corrupt=True))
    assert not machine.sent(c.MarkBad)
    assert machine.the(c.DropLocal).id == "b"
    assert machine.the(c.RestoreJob) == c.RestoreJob(2, "b", local=False)


def test_a_corrupt_checkpoint_is_marked_and_the_next_older_one_restored() -> None:
    machine = Machine().resumed("b", "a").feed(e.RestoreFailed(1.0, 1, "b", "bad tag", corrupt=True))
    assert machine.the(c.MarkBad) == c.MarkBad("b", "bad tag")
    assert machine.the(c.RestoreJob).checkpoint == "a"


def test_a_checkpoint_that_cannot_be_restored_here_stays_in_the_lineage() -> None:
    machine = Machine().resumed("b", "a").feed(e.RestoreFailed(1.0, 1, "b", "file is gone"))
    assert not machine.sent(c.MarkBad)
    assert machine.the(c.RestoreJob).checkpoint == "a"


@pytest.mark.parametrize("local", [True, False])
def test_a_checkpoint_that_does_not_fit_this_machine_ends_the_run_and_stays_good(local: bool) -> None:
    failed = e.RestoreFailed(1.0, 1, "b", "this CPU lacks avx512f", unfit=True)
    machine = Machine().resumed("b", "a", local=local).feed(failed)
    assert machine.finish == ("ckptrun", 74, "interrupted")
    assert not machine.sent(c.MarkBad)
    assert len([command for command in machine.all if isinstance(command, c.RestoreJob)]) == 1
    assert "does not fit here: this CPU lacks avx512f" in machine.said


def test_a_full_disk_ends_the_run_and_the_same_command_goes_on_from_the_same_checkpoint() -> None:
    failed = e.RestoreFailed(1.0, 1, "b", "no room to write x", transient=True, unfit=True)
    machine = Machine().resumed("b", "a").feed(failed)
    assert machine.finish == ("ckptrun", 74, "interrupted")
    assert not machine.sent(c.MarkBad)
    assert "checkpoint b cannot be restored now: no room to write x" in machine.said
    assert "the same command goes on from it" in machine.said


def test_a_full_disk_is_waited_for_while_the_checkpoint_is_nowhere_but_here() -> None:
    machine = Machine().running()
    name = machine.staged(1.0)
    machine.fails(9.0, e.Outcome(signal=9))
    assert machine.the(c.RestoreJob).checkpoint == name
    machine.feed(e.RestoreFailed(10.0, 2, name, "no room to write x", transient=True, unfit=True))
    assert machine.finish is None
    machine.feed(e.Tick(machine.state.start_at))
    assert machine.the(c.RestoreJob).checkpoint == name


def test_when_no_checkpoint_can_be_restored_the_run_ends_with_74() -> None:
    machine = Machine().resumed("a").feed(e.RestoreFailed(1.0, 1, "a", "file is gone"))
    assert machine.finish == ("ckptrun", 74, "failed")
    assert "no checkpoint could be restored" in machine.said


def test_a_store_that_does_not_answer_is_asked_again_before_stepping_back() -> None:
    machine = Machine().resumed("b", "a").feed(e.RestoreFailed(1.0, 1, "b", "timeout", transient=True))
    assert machine.state.phase is Phase.WAITING
    machine.feed(e.Tick(machine.state.start_at))
    assert machine.the(c.RestoreJob).checkpoint == "b"


def test_a_checkpoint_that_retention_took_is_not_restored() -> None:
    machine = Machine().running()
    old = machine.committed(5.0)
    machine.committed(10.0, expired=(old,))
    assert machine.state.find(old) is None
    assert c.DropLocal(old) in machine.all


def test_a_lineage_taken_over_ends_the_run_with_79_once_nothing_lives() -> None:
    machine = Machine().running().feed(e.Fenced(5.0, "host-b has epoch 8"))
    assert machine.the(c.KillCapsule).incarnation == 1
    assert machine.finish is None
    assert machine.feed(e.CapsuleGone(5.1, 1)).finish == ("ckptrun", 79, "interrupted")
