"""Process trees: threads, pools, hundreds of processes, killed and restored twice, with what they share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.twice import expect_same

if TYPE_CHECKING:
    from support.run import Lab

pytestmark = pytest.mark.slow

JOB = Path(__file__).parent / "jobs" / "pools.py"


def test_pools_of_every_start_method(lab: Lab):
    expect_same(lab, JOB, "fork_pool", "spawn_pool", "forkserver_pool", "executors")


def test_locks_queues_managers_and_shared_memory_of_several_processes(lab: Lab):
    expect_same(lab, JOB, "locks_and_queues", "manager", "shared_memory_of_two")


def test_sixty_four_threads(lab: Lab):
    expect_same(lab, JOB, "threads")


def test_two_hundred_processes(lab: Lab):
    expect_same(lab, JOB, "two_hundred_processes")
