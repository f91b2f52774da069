"""All are moved off the GPU, or none: every fault, over both ways to the driver."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ckptrun.cuda.choosing import BINDINGS, choose
from ckptrun.cuda.driver import (
    NOT_READY,
    OUT_OF_MEMORY,
    Action,
    CudaError,
    CudaTimeoutError,
    State,
)
from ckptrun.cuda.operation import Clock, Limits, SuspendError, resume, settle, suspend

if TYPE_CHECKING:
    from support.cuda_standin import Standin

    from ckptrun.cuda.driver import Driver

QUICK = Limits(state=5.0, lock=1.0, move=1.5, back=60.0)
"""For what is to hang."""
PATIENT = Limits(state=20.0, lock=20.0, move=20.0, back=60.0)
"""For what is to succeed on a busy machine."""


def clock() -> Clock:
    return Clock(100.0)


def play(standin: Standin, driver: Driver, number: int = 2, **facts: object) -> list[int]:
    pids = [standin.play(**facts).pid for _ in range(number)]
    driver.prepare(pids)
    return pids


def failure(driver: Driver, pids: list[int], limits: Limits = PATIENT) -> SuspendError:
    if limits is QUICK:
        driver.reach = 0.5
    with pytest.raises(SuspendError) as caught:
        suspend(driver, pids, limits, clock())
    return caught.value


def test_all_are_locked_before_one_is_checkpointed_and_all_are_restored_before_one_is_unlocked(
    standin: Standin, driver: Driver
):
    pids = play(standin, driver, 3)
    suspend(driver, pids, PATIENT, clock())
    assert standin.states() == ["checkpointed"] * 3
    assert resume(driver, pids, PATIENT, clock()) == []
    assert standin.states() == ["running"] * 3
    assert standin.done() == ["lock"] * 3 + ["checkpoint"] * 3 + ["restore"] * 3 + ["unlock"] * 3


def test_nothing_is_asked_between_the_first_lock_and_the_last_unlock(standin: Standin, driver: Driver):
    """A question to a peer of a locked process hangs."""
    pids = play(standin, driver)
    suspend(driver, pids, PATIENT, clock())
    resume(driver, pids, PATIENT, clock())
    calls = [line["call"] for line in standin.log() if "call" in line]
    assert "state" not in calls[: -len(pids)]


@pytest.mark.parametrize("at", ["lock", "checkpoint"])
@pytest.mark.parametrize(
    "do", [801, pytest.param("hang", marks=pytest.mark.slow), pytest.param("late", marks=pytest.mark.slow)]
)
def test_a_failure_of_one_leads_all_back(standin: Standin, driver: Driver, at: str, do: str | int):
    pids = play(standin, driver)
    standin.fault(at, do, pid=pids[0])
    error = failure(driver, pids, PATIENT if do == 801 else QUICK)
    assert error.stuck == ()
    assert standin.states() == ["running", "running"]
    assert f"process {pids[0]}" in error.message
    assert isinstance(error.__cause__, CudaTimeoutError) == (do != 801)


@pytest.mark.parametrize("at", ["lock", "checkpoint"])
def test_a_process_that_dies_on_the_way_is_named_and_the_others_are_led_back(
    standin: Standin, driver: Driver, at: str
):
    pids = play(standin, driver)
    standin.fault(at, "die", pid=pids[0])
    error = failure(driver, pids)
    assert error.gone
    assert error.message == f"process {pids[0]} ended meanwhile"
    assert error.stuck == ()
    assert standin.states() == ["running"]


def test_a_process_that_dies_between_lock_and_checkpoint_is_named(standin: Standin, driver: Driver):
    pids = play(standin, driver)
    for pid in pids:
        driver.act(pid, Action.LOCK, 20.0)
    standin.players[0].process.kill()
    standin.players[0].process.wait()
    with pytest.raises(CudaError):
        driver.act(pids[0], Action.CHECKPOINT, 20.0)
    assert settle(driver, pids, PATIENT, clock()) == []
    assert standin.states() == ["running"]


def test_a_gpu_that_is_busy_for_too_long_is_no_fault_of_its_process(standin: Standin, driver: Driver):
    pids = play(standin, driver)
    standin.fault("lock", NOT_READY, pid=pids[1])
    error = failure(driver, pids)
    assert error.code == NOT_READY
    assert standin.states() == ["running", "running"]


def test_a_lock_gives_up_by_itself_before_it_is_cut_off(standin: Standin, driver: Driver):
    (pid,) = play(standin, driver, 1)
    driver.act(pid, Action.LOCK, 20.0)
    (limit,) = (line["milliseconds"] for line in standin.log() if line.get("call") == "lock")
    assert limit == 20_000


@pytest.mark.slow
def test_a_driver_that_is_slow_to_reach_does_not_cost_the_work_its_time(standin: Standin, driver: Driver):
    """A lock that is cut off, not given up, can leave the process in any state."""
    (pid,) = play(standin, driver, 1, busy=0.1)
    standin.fault("lock", "wait:1.0")
    driver.act(pid, Action.LOCK, 0.5)
    assert standin.states() == ["locked"]
    assert settle(driver, [pid], PATIENT, clock()) == []
    standin.fault("lock", "wait:0.5")
    standin.busy(pid, 3600)
    with pytest.raises(CudaError) as caught:
        driver.act(pid, Action.LOCK, 0.2)
    assert (type(caught.value), caught.value.code) == (CudaError, NOT_READY)
    assert standin.states() == ["running"]


def test_work_that_ends_in_time_is_waited_for(standin: Standin, driver: Driver):
    pids = play(standin, driver, 1, busy=0.3)
    suspend(driver, pids, PATIENT, clock())
    assert standin.states() == ["checkpointed"]


def test_an_unlock_that_fails_once_is_tried_again(standin: Standin, driver: Driver):
    pids = play(standin, driver)
    suspend(driver, pids, PATIENT, clock())
    standin.fault("unlock", 999, pid=pids[0])
    assert resume(driver, pids, PATIENT, clock()) == []
    assert standin.states() == ["running", "running"]


def test_memory_of_the_gpu_that_comes_free_is_waited_for(standin: Standin, driver: Driver):
    pids = play(standin, driver)
    suspend(driver, pids, PATIENT, clock())
    standin.fault("restore", OUT_OF_MEMORY, pid=pids[1], times=2)
    assert resume(driver, pids, PATIENT, clock()) == []
    assert standin.states() == ["running", "running"]


@pytest.mark.slow
def test_a_gpu_that_stays_full_is_named_and_the_others_run(standin: Standin, driver: Driver):
    pids = play(standin, driver)
    suspend(driver, pids, PATIENT, clock())
    standin.fault("restore", OUT_OF_MEMORY, pid=pids[1], times=1000)
    stuck = resume(driver, pids, PATIENT, clock())
    assert [(one.pid, one.state) for one in stuck] == [(pids[1], State.CHECKPOINTED)]
    assert "out of memory" in stuck[0].why
    assert standin.states() == ["running", "checkpointed"]


def test_a_process_that_the_driver_has_given_up_is_told_at_once(standin: Standin, driver: Driver):
    pids = play(standin, driver)
    standin.fault("checkpoint", "fail", pid=pids[0])
    error = failure(driver, pids)
    assert [(one.pid, one.state) for one in error.stuck] == [(pids[0], State.FAILED)]
    assert standin.states() == ["failed", "running"]


@pytest.mark.slow
def test_peers_that_hang_while_one_is_locked_are_led_back(standin: Standin, driver: Driver):
    """As NCCL's do: the second lock waits for the first's end, and so does every question."""
    pids = play(standin, driver, peers=True)
    error = failure(driver, pids, QUICK)
    assert isinstance(error.__cause__, CudaTimeoutError)
    assert error.stuck == ()
    assert standin.states() == ["running", "running"]


@pytest.mark.slow
def test_the_end_of_all_time_is_heeded_even_if_nothing_answers(standin: Standin, driver: Driver):
    pids = play(standin, driver)
    for at in ("lock", "state"):
        standin.fault(at, "hang", times=1000)
    began, driver.reach = time.monotonic(), 0.5
    with pytest.raises(SuspendError) as caught:
        suspend(driver, pids, QUICK, Clock(4.0))
    assert {one.state for one in caught.value.stuck} == {None}
    assert time.monotonic() - began < 60


def test_a_package_that_lacks_a_call_is_refused_before_anything_is_locked(standin: Standin):
    """As versions 13.0.0 and 13.0.1 lack the restore: what they have checkpointed would never come back."""
    module = standin.folder / "site" / "cuda" / "bindings" / "driver.py"
    module.write_text(module.read_text() + "del cuCheckpointProcessRestore, CUcheckpointRestoreArgs\n")
    with pytest.raises(CudaError, match=r"it lacks cuCheckpointProcessRestore: .*13\.0\.2"):
        choose(BINDINGS)


def test_a_call_about_no_process_of_cudas_is_an_error(standin: Standin, driver: Driver):
    player = standin.play("imports")
    driver.prepare([player.pid])
    with pytest.raises(CudaError, match="initialization error"):
        driver.state(player.pid, 20.0)


def test_a_step_out_of_turn_is_refused_and_changes_nothing(standin: Standin, driver: Driver):
    (pid,) = play(standin, driver, 1)
    for action in (Action.CHECKPOINT, Action.RESTORE, Action.UNLOCK):
        with pytest.raises(CudaError, match="in the present state"):
            driver.act(pid, action, 20.0)
    assert standin.states() == ["running"]


def test_a_restore_can_go_to_other_gpus(standin: Standin, driver: Driver):
    pids = play(standin, driver, 1)
    suspend(driver, pids, PATIENT, clock())
    old, new = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "GPU-deadbeef-0000-4106-c12f-20bd9faed9f6"
    standin.gpus((new,))
    assert driver.maps_devices
    with pytest.raises(CudaError, match="invalid argument"):
        driver.act(pids[0], Action.RESTORE, 20.0)
    assert resume(driver, pids, PATIENT, clock(), {old: new}) == []
    assert {line["call"]: line["devices"] for line in standin.log() if line.get("devices")} == {
        "restore": {old: new}
    }


@pytest.mark.slow
def test_no_helper_is_left_behind_after_a_hang(standin: Standin, driver: Driver):
    pids = play(standin, driver, 1)
    standin.fault("lock", "hang")
    failure(driver, pids, QUICK)
    driver.close()
    folder = str(standin.folder)
    assert [line for line in commands() if folder in line and "player.py" not in line] == []


def commands() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
        except OSError:
            continue
    return found
