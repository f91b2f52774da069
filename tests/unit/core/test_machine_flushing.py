"""A run that is to be gone on with, and whose newest checkpoint is not stored yet."""

from __future__ import annotations

import pytest
from driving import FAILS, KILLED, Machine

from ckptrun.core import commands as c
from ckptrun.core import events as e
from ckptrun.core.config import RestartPolicy
from ckptrun.core.state import Phase


def given_up(**config: object) -> tuple[Machine, str]:
    """Return a machine whose job has failed for good, and the checkpoint that is being uploaded."""
    machine = Machine(restart=RestartPolicy.NEVER, **config).running()
    name = machine.staged(1.0)
    machine.fails(2.0)
    assert machine.state.phase is Phase.FLUSHING
    assert machine.finish is None
    return machine, name


def restoring() -> tuple[Machine, str]:
    """Return a machine that restores a checkpoint which is still being uploaded."""
    machine = Machine().running()
    name = machine.staged(1.0)
    machine.fails(2.0, KILLED)
    assert machine.the(c.RestoreJob).local
    return machine, name


def test_it_ends_once_the_newest_checkpoint_is_committed() -> None:
    machine, name = given_up()
    assert machine.feed(e.Committed(5.0, name, 1, 4.0)).finish == ("job", 3, "failed")


def test_a_checkpoint_that_waits_behind_another_upload_is_stored_too() -> None:
    machine = Machine(restart=RestartPolicy.NEVER, local_slots=3).running()
    first, second = machine.staged(1.0), machine.staged(1.5)
    machine.fails(2.0)
    assert machine.feed(e.Committed(3.0, first, 1, 1.0)).the(c.Upload).id == second
    assert machine.feed(e.Committed(4.0, second, 2, 1.0)).finish == ("job", 3, "failed")


def test_a_job_that_is_finished_does_not_wait() -> None:
    machine = Machine().running()
    machine.staged(1.0)
    assert machine.fails(2.0, e.Outcome(code=0)).finish == ("job", 0, "finished")


def test_nothing_waits_for_a_checkpoint_that_the_store_has() -> None:
    machine = Machine(restart=RestartPolicy.NEVER).running()
    machine.committed(1.0)
    assert machine.fails(2.0).finish == ("job", 3, "failed")


def test_it_waits_no_longer_than_the_grace() -> None:
    machine, _ = given_up(grace=7.0)
    assert machine.state.wake == 9.0
    machine.feed(e.Tick(8.9))
    assert machine.finish is None
    assert machine.feed(e.Tick(9.0)).finish == ("job", 3, "failed")


def test_an_upload_that_fails_is_tried_again_while_there_is_time() -> None:
    machine, name = given_up()
    machine.feed(e.CommitFailed(3.0, name, "the store does not answer", transient=True))
    assert machine.finish is None
    assert "the job runs on" not in machine.said
    assert machine.state.wake is not None
    assert machine.feed(e.Tick(machine.state.wake)).the(c.Upload).id == name
    assert machine.feed(e.Committed(9.0, name, 1, 1.0)).finish == ("job", 3, "failed")


def test_an_upload_that_is_refused_ends_it() -> None:
    machine, name = given_up()
    refused = e.CommitFailed(3.0, name, "access denied", transient=False)
    assert machine.feed(refused).finish == ("job", 3, "failed")


def test_a_lost_copy_ends_it() -> None:
    machine, name = given_up()
    machine.feed(e.CommitFailed(3.0, name, "the store does not answer", transient=True))
    assert machine.feed(e.StagingLost(3.5, name)).finish == ("job", 3, "failed")


def test_a_first_stop_leaves_its_grace_and_a_second_none() -> None:
    machine, _ = given_up()
    machine.feed(e.StopRequested(3.0, 5.0, 15))
    assert machine.finish is None
    assert machine.state.wake == 8.0
    assert machine.feed(e.StopRequested(4.0, 5.0, 15)).finish == ("job", 3, "failed")


def test_whoever_waits_for_that_checkpoint_is_answered() -> None:
    machine = Machine(restart=RestartPolicy.NEVER).running().feed(e.CheckpointRequested(1.0, 7, wait=True))
    name = machine.the(c.TakeCheckpoint).id
    machine.feed(e.DumpFinished(1.0, name, 0.1, 4096)).fails(2.0, FAILS)
    machine.feed(e.CheckpointRequested(2.5, 8))
    assert machine.the(c.Answer).waiter == 8
    machine.feed(e.Committed(3.0, name, 1, 1.0))
    assert machine.the(c.Answer) == c.Answer(7, name, None)


def test_a_stop_during_a_restore_waits_for_the_checkpoint_that_is_restored() -> None:
    machine, name = restoring()
    assert machine.feed(e.StopRequested(3.0, 30.0, 15)).sent(c.KillCapsule)
    machine.feed(e.CapsuleGone(3.5, 2))
    assert machine.finish is None
    assert machine.feed(e.Committed(4.0, name, 1, 3.0)).finish == ("ckptrun", 75, "interrupted")


@pytest.mark.parametrize("grace", [0.0, 1.0])
def test_a_stop_whose_only_checkpoint_is_not_stored_in_time_has_the_signals_code(grace: float) -> None:
    machine, _ = restoring()
    machine.feed(e.StopRequested(3.0, grace, 15), e.CapsuleGone(3.5, 2))
    if grace:
        assert machine.finish is None
        machine.feed(e.Tick(4.0))
    assert machine.finish == ("job", 143, "interrupted")


def test_a_stop_between_two_incarnations_waits_too() -> None:
    machine, name = restoring()
    machine.restored(3.0).fails(3.1, KILLED).restored(5.0).fails(5.1, KILLED)
    assert machine.state.phase is Phase.WAITING
    machine.feed(e.StopRequested(5.2, 30.0, 15))
    assert machine.finish is None
    assert machine.feed(e.Committed(6.0, name, 1, 5.0)).finish == ("ckptrun", 75, "interrupted")


def test_a_lineage_that_was_taken_over_is_not_waited_for() -> None:
    machine, _ = given_up()
    assert machine.feed(e.Fenced(3.0, "by another")).finish == ("ckptrun", 79, "interrupted")
    machine = Machine().running()
    machine.staged(1.0)
    machine.feed(e.Fenced(2.0, "by another"), e.CapsuleGone(2.1, 1))
    assert machine.finish == ("ckptrun", 79, "interrupted")


def test_who_asks_twice_to_stop_does_not_wait() -> None:
    machine = Machine().running()
    machine.staged(1.0)
    machine.feed(e.StopRequested(2.0, 30.0, 15), e.StopRequested(3.0, 30.0, 15), e.CapsuleGone(3.1, 1))
    assert machine.finish == ("job", 143, "interrupted")
