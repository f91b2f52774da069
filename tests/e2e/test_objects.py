"""Kernel objects: a job that holds them is killed and restored, twice, and ends as if nothing had happened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.twice import expect_same

if TYPE_CHECKING:
    from support.run import Lab

pytestmark = pytest.mark.slow

JOBS = Path(__file__).parent / "jobs"


def test_signals_and_timers(lab: Lab):
    expect_same(lab, JOBS / "signals.py")


def test_descriptors(lab: Lab):
    expect_same(lab, JOBS / "descriptors.py")


def test_memory_and_files_without_names(lab: Lab):
    expect_same(lab, JOBS / "memory.py")


def test_processes(lab: Lab):
    expect_same(lab, JOBS / "lives.py")


def test_clocks_of_processes_and_threads_and_robust_mutexes(lab: Lab):
    expect_same(lab, JOBS / "clocks.py")
