"""Fixtures for tests with real capsules."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from live import Machine
from shims import Room

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def machine() -> Iterator[Machine]:
    """Return what makes capsules; ends them all."""
    machine = Machine()
    yield machine
    machine.close()


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Return a folder with a short path (sockets lie there) for a process that will not tidy up."""
    with tempfile.TemporaryDirectory(prefix="cr-") as name:
        yield Path(name)


@pytest.fixture
def room() -> Iterator[Room]:
    """Return what makes shims and ends for their sockets."""
    with tempfile.TemporaryDirectory(prefix="cr-") as name:
        Path(name).chmod(0o755)
        room = Room(Path(name))
        yield room
        room.close()
