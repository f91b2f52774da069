"""Huge pages that the machine reserves: kept, or refused by name."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.run import COMMITTED
from support.twice import expect_same

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.run import Lab

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="only root reserves huge pages")]

JOB = Path(__file__).parent / "jobs" / "huge.py"
RESERVED = Path("/proc/sys/vm/nr_hugepages")
NEEDED = 8


@pytest.fixture
def reserved(lab: Lab) -> Iterator[None]:
    before = int(RESERVED.read_text())
    RESERVED.write_text(str(before + NEEDED))
    try:
        if int(RESERVED.read_text()) < before + NEEDED:
            pytest.skip("this machine has no room for huge pages now")
        yield
    finally:
        lab.close()
        RESERVED.write_text(str(before))


@pytest.mark.usefixtures("reserved")
def test_those_that_are_shared_are_kept(lab: Lab):
    expect_same(lab, JOB, "shared", "memfd")


@pytest.mark.usefixtures("reserved")
@pytest.mark.parametrize("part", ["private", "private_memfd"])
def test_private_ones_are_refused_by_name_and_the_job_runs_on(lab: Lab, part: str):
    run = lab.start(sys.executable, JOB, part)
    run.refused("process 1001 ", "has huge pages mapped privately")
    (lab.work / "go").touch()
    result = run.wait()
    assert (result.code, "before" in result.out) == (0, True), result.err
    assert lab.events(COMMITTED) == []
