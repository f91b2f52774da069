"""Fixtures for tests with real capsules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from live import Machine

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def machine() -> Iterator[Machine]:
    """Return what makes capsules; ends them all."""
    machine = Machine()
    yield machine
    machine.close()
