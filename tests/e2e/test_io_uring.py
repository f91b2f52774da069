"""io_uring is missing inside of a job in the way that programs are prepared for, before and after a restore."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.twice import killed_twice

if TYPE_CHECKING:
    from support.run import Lab

pytestmark = pytest.mark.slow

JOB = Path(__file__).parent / "jobs" / "ring.py"


def test_a_program_falls_back_to_plain_calls_and_is_restored(lab: Lab):
    result = killed_twice(lab, JOB)
    assert (result.code, result.out) == (0, "ready\nreading (-1, 'ENOSYS', b'content')\n"), result.err
