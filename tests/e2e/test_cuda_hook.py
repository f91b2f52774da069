"""The hook cuda around a real job: its GPU's memory is away during the freeze, and back after it and after a restore.

The GPU is a stand-in; what holds its devices, is dumped without them and takes them again is a real process.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.cuda_standin import Standin
from support.run import RESTORED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.run import Lab, Run

pytestmark = pytest.mark.slow

STEPS = 10**9


@pytest.fixture
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standin]:
    made = Standin(tmp_path_factory.mktemp("standin") / "gpu")
    yield made
    made.close()


def hook(standin: Standin) -> str:
    options = {**standin.options, "driver": "program", "program": str(standin.program)}
    return "cuda?" + "&".join(f"{name}={value}" for name, value in options.items())


def command(standin: Standin, memory: int) -> tuple[str, ...]:
    players = (standin.command(token, steps=STEPS, gpus=[], memory=memory) for token in ("a", "b"))
    return "sh", "-c", " & ".join(map(shlex.join, players)) + " & wait"


def start(lab: Lab, standin: Standin, *options: str, memory: int) -> Run:
    """Start a job of two processes that compute."""
    run = lab.start(*command(standin, memory), options=(*options, "--hook", hook(standin)))
    run.until("both compute", lambda: run.stdout.data.count(b"ready") == 2)
    return run


def computes(run: Run) -> None:
    """Wait until both processes say so, from now on."""
    before = len(run.stdout.data)
    run.until("a step", lambda: run.stdout.data[before:].count(b" gpu") > 4)


ROUND = ["lock", "lock", "checkpoint", "checkpoint", "restore", "restore", "unlock", "unlock"]


def test_gpu_memory_is_moved_outside_of_the_freeze_and_the_job_computes_on_after_a_kill(
    lab: Lab, standin: Standin
):
    run = start(lab, standin, memory=1 << 20)
    run.checkpoint()
    assert standin.done() == ROUND
    computes(run)
    run.restored(run.kill_job)
    assert standin.done() == [*ROUND, *ROUND[4:]]
    assert not any(line["stopped"] for line in standin.log())
    computes(run)
    (moved,) = [event for event in lab.events("hook-event") if event["name"] == "cuda-suspended"]
    assert moved["fields"]["processes"] == 2
    assert (moved["phase"], moved["hook"]) == ("pre-checkpoint", "cuda")
    assert [event["name"] for event in lab.events("hook-event")] == [
        "cuda-suspended",
        "cuda-resumed",
        "cuda-restored",
    ]


def test_a_gpu_that_cannot_be_moved_costs_the_checkpoint_and_not_the_job(lab: Lab, standin: Standin):
    run = start(lab, standin, memory=1 << 20)
    standin.fault("checkpoint", 801)
    run.event("job-started")
    asked = lab.ask("checkpoint", "--wait")
    assert asked.code == 76
    assert "hook cuda failed: the driver could not checkpoint process" in asked.err
    assert "every process has been led back" in asked.err
    computes(run)
    run.checkpoint()
    computes(run)


def test_memory_that_a_gpu_brings_finds_room_although_it_was_not_there_before(lab: Lab, standin: Standin):
    run = start(lab, standin, "--staging", "256M", memory=200 << 20)
    name = run.checkpoint()
    computes(run)
    size = next(event["memory_bytes"] for event in lab.events("checkpoint-staged") if event["id"] == name)
    assert size > 400 << 20


def test_a_job_that_was_stopped_goes_on_computing(lab: Lab, standin: Standin):
    run = start(lab, standin, memory=1 << 20)
    run.event("job-started")
    assert lab.ask("stop").code == 0
    assert run.wait().code == 75
    again = lab.start(*command(standin, 1 << 20), options=("--hook", hook(standin)))
    again.event("job-restored")
    computes(again)
    assert standin.done() == ROUND


def test_a_gpu_that_is_full_at_a_restore_is_named_and_the_restore_is_tried_again(lab: Lab, standin: Standin):
    run = start(lab, standin, memory=1 << 20)
    run.checkpoint()
    computes(run)
    standin.fault("restore", 2, times=1_000_000)
    run.kill_job()
    failed = run.event("restore-failed")
    assert "hook cuda failed: the driver could not restore process" in failed["reason"]
    assert "out of memory; end what else uses the GPU" in failed["reason"]
    standin.mend()
    run.event(RESTORED)
    computes(run)


@pytest.fixture
def device() -> Iterator[Path]:
    """A file with a name as a GPU's; not that of one that may be there."""
    path = Path("/dev/nvidia98765")
    try:
        path.touch()
    except PermissionError:
        pytest.skip("only root makes files in /dev")
    yield path
    path.unlink()


def test_the_hook_joins_by_itself_when_a_process_of_the_job_has_a_gpu_open(lab: Lab, device: Path):
    """One that is none: a file of that name. So all the hook can do is to refuse, by name."""
    run = lab.start("sh", "-c", f"exec 3<{device} && echo ready >&2; sleep 1000")
    run.says("ready")
    asked = lab.ask("checkpoint", "--wait")
    assert asked.code == 76
    assert "hook cuda" in asked.err
