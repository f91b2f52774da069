"""Loops and trainings that ckptrun knows of: killed, or gone wrong, they end as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from jobs import loop_job
from support.run import COMMITTED, REPOSITORY, STAGED, seed
from zoo.catalogue import ENVIRONMENT as PACKAGES

if TYPE_CHECKING:
    from support.run import Lab

pytestmark = pytest.mark.slow

JOBS = Path(__file__).parent / "jobs"
PYTHON = PACKAGES / "bin" / "python"
CURE = ("--hook", "command?pre-restore=rm -f poison spoiled")
"""What is wrong outside of the job is put right before it is restored."""
TRAININGS = {"huggingface": ("huggingface_job.py",), "lightning": ("lightning_job.py", "lightning.pytorch")}
ALONE = {**TRAININGS, "lightning": ("lightning_job.py", "pytorch_lightning")}
"""Lightning's two names stand for the same."""
SPOILERS = {"huggingface": ("poison", "spoiled"), "lightning": ("poison",)}
"""See `jobs/training.py`."""
FIGURE = {"huggingface": "eval_loss", "lightning": "val_loss"}
LONGEST_SECONDS = 240.0
"""Until a training has come to its end, or to its first checkpoint, on a loaded machine too."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}


def told(output: str) -> dict[str, Any]:
    """Return what a training says in the end: its weights, what it has logged, and the figures of its evaluations."""
    last = output.splitlines()[-1]
    assert last.startswith("told "), output
    return dict(json.loads(last.removeprefix("told ")))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each training ends with where there is no ckptrun, with its callback; all of them at once."""
    assert PYTHON.exists(), "the packages of the trainings are missing: run `make zoo-packages`"
    environment = {**os.environ, **OFFLINE, "PYTHONPATH": str(REPOSITORY)}
    started = {
        name: subprocess.Popen(
            [PYTHON, JOBS / file, *words],
            cwd=tmp_path_factory.mktemp(name),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, (file, *words) in ALONE.items()
    }
    found = {}
    for name, process in started.items():
        output, errors = process.communicate(timeout=LONGEST_SECONDS)
        assert process.returncode == 0, errors
        found[name] = told(output)
    return found


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize("training", TRAININGS)
def test_a_training_that_is_killed_and_whose_loss_is_spoiled_from_outside_ends_as_if_left_alone(
    lab: Lab, training: str, undisturbed: dict[str, dict[str, Any]]
):
    lab.environment = {**OFFLINE, "PYTHONPATH": ""}
    file, *words = TRAININGS[training]
    run = lab.start(PYTHON, JOBS / file, *words, options=CURE)
    run.event(COMMITTED, timeout=LONGEST_SECONDS)  # of the checkpoint after the first evaluation
    time.sleep(random.Random(seed()).uniform(0, 0.5))  # anywhere before the next evaluation, or after it
    run.restored(run.kill_job)
    for spoiler in SPOILERS[training]:
        run.checkpoint()  # the same failure twice after the same checkpoint would set that one aside
        run.restored((lab.work / spoiler).touch)
    lab.release()
    result = run.wait(LONGEST_SECONDS)
    assert result.code == 0, result.err
    assert told(result.out) == undisturbed[training]
    _killed, *spoiled, _done = lab.events("job-ended")
    assert {event.get("cause") for event in spoiled} == {"rollback: loss is not finite"}
    reported = lab.checkpoints()[0]["metric"]
    assert "loss" in reported
    assert reported[FIGURE[training]] == undisturbed[training]["figures"][-1]


def test_a_plain_loop_takes_its_checkpoints_and_goes_back_to_them(lab: Lab):
    (lab.work / "poison").touch()
    result = lab.run(sys.executable, JOBS / "loop_job.py", options=CURE)
    assert result.code == 0, result.err
    assert "refused loss is not finite, and the job cannot go back: there is no checkpoint" in result.out
    assert result.out.splitlines()[1:] == ["restored", f"weight {loop_job.weight()}"]
    assert "rolled back: loss is not finite" in result.err
    assert len(lab.events(STAGED)) == loop_job.STEPS // 3 + 1
    assert list(lab.checkpoints()[0]["metric"]) == ["loss"]
