"""A machine for every test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.run import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path) as lab:
        yield lab
        lab.close()
        lab.expect_nothing_left()
