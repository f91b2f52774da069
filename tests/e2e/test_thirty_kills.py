"""Thirty kills in a row, of the job, of ckptrun, in the middle of dumps: the result is as if left alone.

CKPTRUN_TEST_SEED repeats a run's choices.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from jobs.hurried import HURRY
from support.run import REPOSITORY, RESTORED, seed

if TYPE_CHECKING:
    from support.run import Lab, Run

pytestmark = pytest.mark.slow

KILLS = 30
STEPS = 3000
KINDS = ("job", "supervisor", "job in mid-dump", "supervisor in mid-dump")
INTERVAL = 0.5
TRAINING = (sys.executable, REPOSITORY / "examples" / "train_digits.py", "--steps", STEPS)
SLOWED = (sys.executable, Path(__file__).parent / "jobs" / "hurried.py", *TRAINING[1:])
OPTIONS = ("--interval", f"{INTERVAL}s", "--max-restarts", "1000")


class Executioner:
    """Kills what it is told to, after a commit, and has the job restored."""

    def __init__(self, lab: Lab, choices: random.Random) -> None:
        self.lab = lab
        self.choices = choices
        self.run = self.start()

    def start(self) -> Run:
        return self.lab.start(
            *SLOWED, "--step-seconds", 0.02, "--hold", self.lab.folder / "held", options=OPTIONS
        )

    def kill(self, kind: str) -> None:
        self.run.commit()
        restored = len(self.lab.events(RESTORED))
        if kind.endswith("mid-dump"):
            self.wait_for_dump()
        else:
            time.sleep(self.choices.uniform(0, INTERVAL))
        if kind.startswith("supervisor"):
            self.run.kill_supervisor()
            self.run = self.start()
        else:
            self.run.kill_job()
        self.run.until("restore", lambda: len(self.lab.events(RESTORED)) > restored)

    def wait_for_dump(self) -> None:
        """Wait until CRIU is at work, and then a moment more."""
        self.run.until("dump", self.run.dumping)
        time.sleep(self.choices.uniform(0, 0.2))


def steps_done(lab: Lab) -> int:
    return (lab.work / "train.csv").read_bytes().count(b"\n") - 1


def test_thirty_kills_leave_no_trace_in_the_result(lab: Lab, tmp_path: Path):
    choices = random.Random(seed())
    reference = tmp_path / "reference"
    reference.mkdir()
    undisturbed = subprocess.run(
        [*map(str, TRAINING)], cwd=reference, capture_output=True, text=True, check=True
    ).stdout.splitlines()

    held = lab.folder / "held" / str(STEPS)  # on whatever machine, the training lasts for all the kills
    held.parent.mkdir()
    held.touch()
    executioner = Executioner(lab, choices)
    kinds = [KINDS[number % len(KINDS)] for number in range(KILLS)]
    choices.shuffle(kinds)
    for number, kind in enumerate(kinds, 1):
        print(f"{number}: {kind}", flush=True)
        executioner.kill(kind)
    print(f"{steps_done(lab)} of {STEPS} steps after the last kill", flush=True)
    (lab.work / HURRY).touch()
    held.unlink()
    result = executioner.run.wait(300)

    assert result.code == 0, result.err
    assert result.out.splitlines()[-1] == undisturbed[-1]  # the digest of the weights
    assert (lab.work / "train.csv").read_bytes() == (reference / "train.csv").read_bytes()
    assert (lab.work / "model.npz").read_bytes() == (reference / "model.npz").read_bytes()
    assert len(lab.events(RESTORED)) >= KILLS
