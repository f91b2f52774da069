"""Loops that ckptrun knows of."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from jobs import loop_job
from support.run import STAGED

if TYPE_CHECKING:
    from support.run import Lab

pytestmark = pytest.mark.slow

JOBS = Path(__file__).parent / "jobs"
CURE = ("--hook", "command?pre-restore=rm -f poison")
"""What is wrong outside of the job is put right before it is restored."""


def test_a_plain_loop_takes_its_checkpoints_and_goes_back_to_them(lab: Lab):
    (lab.work / "poison").touch()
    result = lab.run(sys.executable, JOBS / "loop_job.py", options=CURE)
    assert result.code == 0, result.err
    assert "refused loss is not finite, and the job cannot go back: there is no checkpoint" in result.out
    assert result.out.splitlines()[1:] == ["restored", f"weight {loop_job.weight()}"]
    assert "rolled back: loss is not finite" in result.err
    assert len(lab.events(STAGED)) == loop_job.STEPS // 3 + 1
    assert list(lab.checkpoints()[0]["metric"]) == ["loss"]
