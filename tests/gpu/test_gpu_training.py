"""PyTorch on a real GPU under ckptrun: killed and restored, it ends with the weights of an undisturbed run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from support.gpu import PYTHON

from ckptrun.cuda.choosing import BINDINGS, PROGRAM, choose
from ckptrun.cuda.driver import CudaError, State
from ckptrun.cuda.finding import Kind, in_use, kind_of, looks
from ckptrun.cuda.gpus import memory_of, this_machine
from ckptrun.cuda.known import REMAPPING_DRIVER
from ckptrun.cuda.operation import Clock, Limits, resume, suspend

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.run import Lab, Run

    from ckptrun.cuda.driver import Driver

TRAIN = Path(__file__).parent / "jobs" / "train.py"
JOB = (PYTHON, "-u", TRAIN)
PATIENCE = 300.0


@pytest.fixture(scope="module")
def undisturbed() -> str:
    """What a run prints last that nobody has disturbed."""
    ended = subprocess.run(  # with all of the environment: it may say where the driver's library is
        [*map(str, JOB), "--pause", "0"], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    return weights(ended.stdout)


@pytest.fixture(params=[BINDINGS, PROGRAM])
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    try:
        made = choose(request.param)
    except CudaError as error:
        pytest.skip(error.message)
    yield made
    made.close()


def weights(text: str) -> str:
    (found,) = re.findall(r"^weights (\w+)", text, re.MULTILINE)
    return str(found)


def train(lab: Lab, *words: str, options: tuple[str, ...] = ()) -> Run:
    lab.hold()
    run = lab.start(*JOB, *words, options=options)
    run.until("the first steps", lambda: b"step 20 " in run.stdout.data, PATIENCE)
    return run


def further(run: Run) -> None:
    """Wait until it has computed some more."""
    before = len(run.stdout.data)
    run.until("more steps", lambda: run.stdout.data[before:].count(b"step ") > 5, PATIENCE)


def test_a_training_that_is_killed_twice_ends_with_the_same_weights(lab: Lab, undisturbed: str):
    run = train(lab)
    for _ in range(2):
        run.checkpoint()
        further(run)
        run.restored(run.kill_job)
        further(run)
    assert weights(run.finish().out) == undisturbed
    moved = [event["fields"] for event in lab.events("hook-event") if event["name"] == "cuda-suspended"]
    assert [fields["processes"] for fields in moved] == [1, 1]


def test_a_checkpoint_alone_changes_nothing(lab: Lab, undisturbed: str):
    run = train(lab)
    run.checkpoint()
    further(run)
    run.checkpoint()
    assert weights(run.finish().out) == undisturbed


def test_a_training_goes_on_after_ckptrun_and_all_its_local_state_are_gone(lab: Lab, undisturbed: str):
    run = train(lab)
    run.checkpoint()
    run.kill_supervisor()
    lab.lose_machine()
    lab.hold()
    again = lab.start(*JOB)
    again.event("job-restored")
    further(again)
    assert weights(again.finish().out) == undisturbed


def test_memory_larger_than_the_network_comes_back(lab: Lab):
    run = train(lab, "--fill", "2048")
    run.checkpoint()
    run.restored(run.kill_job)
    assert run.finish().out.rstrip().endswith(" 2048")


def test_a_forked_child_that_holds_the_gpu_is_refused_by_name_and_the_job_runs_on(lab: Lab):
    run = train(lab, "--fork")
    asked = lab.ask("checkpoint", "--wait")
    assert asked.code == 76
    assert "forked-child: process" in asked.err
    further(run)


@pytest.fixture
def pid() -> Iterator[int]:
    """A training without ckptrun that has begun to compute."""
    with subprocess.Popen(
        [*map(str, JOB), "--steps", "1000000"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        while not (line := process.stdout.readline()).startswith("step 5 "):
            assert line, "the training has ended"
        yield process.pid
        process.kill()


def test_the_driver_goes_through_the_states_and_the_gpu_is_let_go(driver: Driver, pid: int):
    limits, clock = Limits(), Clock(240.0)
    driver.prepare([pid])
    (one,) = looks([pid])
    assert kind_of(one, [one]) is Kind.COMPUTES
    assert one.has_cuda_threads
    assert driver.state(pid, 30.0) is State.RUNNING
    suspend(driver, [pid], limits, clock)
    assert driver.state(pid, 30.0) is State.CHECKPOINTED
    assert not in_use([pid])
    assert memory_of([pid]) == {}
    assert resume(driver, [pid], limits, clock) == []
    assert driver.state(pid, 30.0) is State.RUNNING
    assert psutil.Process(pid).is_running()


def test_a_process_goes_on_with_another_gpu_of_the_kind(driver: Driver, pid: int):
    """Each takes the place of the one before it: a map names every GPU of the machine."""
    here = this_machine().gpus
    if len(here) < 2 or len({gpu.model for gpu in here}) > 1 or this_machine().version < REMAPPING_DRIVER:
        pytest.skip("this needs two GPUs or more, all of one kind, and driver 580")
    limits, clock = Limits(), Clock(240.0)
    driver.prepare([pid])
    suspend(driver, [pid], limits, clock)
    around = {gpu.uuid: here[n - 1].uuid for n, gpu in enumerate(here)}
    assert resume(driver, [pid], limits, clock, around) == []
    assert driver.state(pid, 30.0) is State.RUNNING
    assert psutil.Process(pid).is_running()


def test_a_process_that_has_only_loaded_cuda_has_no_state(driver: Driver):
    code = "import ctypes, time; ctypes.CDLL('libcuda.so.1'); print('ready', flush=True); time.sleep(3600)"
    with subprocess.Popen([PYTHON, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        (one,) = looks([process.pid])
        assert kind_of(one, [one]) is Kind.LIBRARY
        with pytest.raises(CudaError):
            driver.state(process.pid, 30.0)
        process.kill()
