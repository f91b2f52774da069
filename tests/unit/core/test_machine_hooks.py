"""When the machine has hooks run that nothing waits for, and what it makes of one that fails at a restore."""

from __future__ import annotations

import pytest
from driving import FAILS, KILLED, Machine

from ckptrun.core import commands as c
from ckptrun.core import events as e
from ckptrun.core.config import RestartPolicy
from ckptrun.core.restart import HOOK_TRIES


def hooks(machine: Machine) -> list[c.RunHooks]:
    return machine.sent(c.RunHooks)


def test_every_commit_has_its_hooks() -> None:
    machine = Machine().running()
    name = machine.committed(5.0)
    assert hooks(machine) == [c.RunHooks(c.POST_COMMIT, checkpoint=name)]


def test_the_hooks_of_a_commit_are_told_what_can_still_be_restored() -> None:
    """What the store has, and what waits for its upload in local memory; not what retention has just let go."""
    machine = Machine().running()
    gone, first = machine.committed(2.0), machine.staged(3.0)
    second = machine.staged(4.0)
    machine.feed(e.Committed(5.0, first, 2, 1.0, (gone,), ("pinned", first)))
    assert hooks(machine) == [
        c.RunHooks(c.POST_COMMIT, checkpoint=first, kept=tuple(sorted(("pinned", first, second))))
    ]


def test_a_checkpoint_that_proved_corrupt_while_it_was_stored_has_no_hooks_of_a_commit() -> None:
    """Its commit is taken back at once: nobody may count on it."""
    machine = Machine().running()
    machine.committed(2.0)
    bad = machine.staged(3.0)
    machine.fails(60.0, KILLED)
    number = machine.state.incarnation.number
    machine.feed(e.RestoreFailed(60.5, number, bad, "torn", corrupt=True))
    machine.feed(e.Committed(61.0, bad, 2, 1.0, ()))
    assert machine.the(c.MarkBad).checkpoint == bad
    assert hooks(machine) == []


def test_a_failure_has_its_hooks_before_the_restore() -> None:
    machine = Machine().running()
    machine.committed(5.0)
    machine.fails(6.0)
    kinds = [type(command) for command in machine.last]
    assert hooks(machine) == [c.RunHooks(c.ON_FAILURE, cause=FAILS)]
    assert kinds.index(c.RunHooks) < kinds.index(c.RestoreJob)


def test_a_failure_that_is_not_restored_has_its_hooks() -> None:
    machine = Machine(restart=RestartPolicy.NEVER).running()
    machine.fails(6.0)
    assert hooks(machine) == [c.RunHooks(c.ON_FAILURE, cause=FAILS)]
    assert isinstance(machine.last[-1], c.Finish)


def test_a_good_end_is_no_failure() -> None:
    machine = Machine().running().fails(6.0, e.Outcome(code=0))
    assert hooks(machine) == []


def test_an_end_after_ctrl_c_is_no_failure() -> None:
    machine = Machine().running().fails(6.0, e.Outcome(signal=2, after_interrupt=True))
    assert hooks(machine) == []


def test_a_crash_during_a_stop_is_a_failure_and_an_end_by_its_signal_is_not() -> None:
    machine = Machine().running()
    machine.feed(e.StopRequested(5.0, 30.0, 15)).fails(5.1)
    assert [command.phase for command in hooks(machine)] == [c.ON_FAILURE]
    machine = Machine().running()
    machine.feed(e.StopRequested(5.0, 0.0, 15)).fails(5.1, e.Outcome(signal=15))
    assert hooks(machine) == []


@pytest.mark.parametrize("local", [True, False])
def test_a_restore_that_a_hook_aborts_is_tried_again_and_then_ends_the_run_to_be_gone_on_with(
    local: bool,
) -> None:
    machine = Machine().resumed("new", "old", local=local)
    for _ in range(HOOK_TRIES):
        number = machine.state.incarnation.number
        machine.feed(e.RestoreFailed(machine.state.now, number, "new", "hook db failed: down", aborted=True))
        assert machine.finish is None
        machine.feed(e.Tick(machine.state.start_at or 0.0))
        assert machine.the(c.RestoreJob).checkpoint == "new"
    number = machine.state.incarnation.number
    machine.feed(e.RestoreFailed(machine.state.now, number, "new", "hook db failed: down", aborted=True))
    assert machine.finish == ("ckptrun", 74, "interrupted")
    assert "hook db failed: down" in machine.said


def test_a_job_that_runs_again_starts_the_count_of_aborted_restores_anew() -> None:
    machine = Machine().running()
    machine.committed(5.0)
    for _ in range(HOOK_TRIES + 1):
        machine.fails(machine.state.now + 60, KILLED)
        if machine.state.start_at:
            machine.feed(e.Tick(machine.state.start_at))
        number, name = machine.state.incarnation.number, machine.state.incarnation.origin or ""
        machine.feed(e.RestoreFailed(machine.state.now, number, name, "hook db failed", aborted=True))
        machine.restored(machine.state.now)
    assert machine.finish is None
