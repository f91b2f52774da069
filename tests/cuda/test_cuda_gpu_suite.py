"""The suite for real GPUs, where there is none: everything is skipped, and it is said why."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ckptrun.cuda.gpus import this_machine

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(bool(this_machine().gpus), reason="here the suite runs for real")
def test_without_a_gpu_every_test_is_skipped_with_the_reason():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "tests/gpu",
        "-rs",
        "-p",
        "no:xdist",
        "-p",
        "no:hypothesispytest",
    ]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
    assert "there is no NVIDIA GPU here, or no driver for it" in ended.stdout
    assert " passed" not in ended.stdout
