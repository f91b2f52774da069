"""A job that an earlier supervisor has started: it is served, and what follows is as if this one had."""

from __future__ import annotations

import pytest
from driving import FAILS, KILLED, Machine

from ckptrun.core import commands as c
from ckptrun.core import events as e
from ckptrun.core import plans


def going_on(*ids: str) -> Machine:
    candidates = tuple(plans.Candidate(name, 100 - i) for i, name in enumerate(ids))
    return Machine().feed(e.StagingReady(0.0), e.Begin(0.0, plans.GoOn(candidates)))


def test_it_is_served_and_counts_as_no_restart() -> None:
    machine = going_on("b", "a")
    assert machine.the(c.ServeJob) == c.ServeJob(1)
    machine.feed(e.JobStarted(0.1, 1))
    assert [command.event for command in machine.all if isinstance(command, c.Record)] == ["job-resumed"]
    assert machine.state.restarts == 0
    assert not machine.sent(c.RestoreJob)


def test_it_is_restored_from_the_checkpoints_it_had_before() -> None:
    machine = going_on("b", "a").feed(e.JobStarted(0.1, 1)).fails(6.0, KILLED)
    assert machine.the(c.RestoreJob) == c.RestoreJob(2, "b", local=False)


def test_it_is_restored_from_one_taken_since() -> None:
    machine = going_on("b").feed(e.JobStarted(0.1, 1))
    name = machine.committed(5.0)
    machine.fails(6.0, KILLED)
    assert machine.the(c.RestoreJob) == c.RestoreJob(2, name, local=True)


def test_without_a_checkpoint_it_ends_with_its_code() -> None:
    assert going_on().feed(e.JobStarted(0.1, 1)).fails(5.0, FAILS).finish == ("job", 3, "failed")


@pytest.mark.parametrize("code", [0, 3])
def test_one_that_had_ended_already_ends_as_ever(code: int) -> None:
    machine = going_on("b").feed(e.JobStarted(0.1, 1)).fails(0.1, e.Outcome(code=code))
    assert (machine.finish == ("job", 0, "finished")) == (code == 0)
    assert bool(machine.sent(c.RestoreJob)) == (code == 3)


def test_one_that_cannot_be_served_is_restored() -> None:
    machine = going_on("b").feed(e.StartFailed(0.1, 1, "the capsule is gone", 70))
    assert machine.the(c.RestoreJob) == c.RestoreJob(2, "b", local=False)
    assert "could not be served and was killed: the capsule is gone" in machine.said


def test_one_that_cannot_be_served_and_has_no_checkpoint_is_started_anew() -> None:
    machine = going_on().feed(e.StartFailed(0.1, 1, "the capsule is gone", 70))
    assert machine.the(c.StartJob) == c.StartJob(2)
    machine.feed(e.JobStarted(0.2, 2))
    assert machine.state.incarnation.number == 2


def test_one_that_dies_while_it_is_taken_over_is_restored() -> None:
    machine = going_on("b").feed(e.CapsuleGone(0.1, 1))
    assert machine.the(c.RestoreJob) == c.RestoreJob(2, "b", local=False)
