"""The journal's fixtures: jobs under control, and file systems of every kind."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from journalkit import Job, Keeper

from ckptrun.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    process = Job(tmp_path)
    yield process
    process.kill()


@pytest.fixture
def aside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("aside")


@pytest.fixture
def keeper(tmp_path: Path) -> Keeper:
    return Keeper(tmp_path, Journal(1 << 30))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 8 MiB."""
    yield from _mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=8m", "small")


@pytest.fixture
def memory_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem where stores through a mapping change no time."""
    yield from _mounted(tmp_path / "memory", "-t", "tmpfs", "memory")


@pytest.fixture
def cloning_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem that can reflink."""
    image = tmp_path / "btrfs.img"
    with image.open("wb") as file:
        file.truncate(160 << 20)
    try:
        subprocess.run(["mkfs.btrfs", "-q", image], check=True)
    except FileNotFoundError:
        pytest.skip("mkfs.btrfs is not installed")
    yield from _mounted(tmp_path / "btrfs", "-o", "loop", str(image))


def _mounted(place: Path, *how: str) -> Iterator[Path]:
    place.mkdir()
    done = subprocess.run(["mount", *how, place], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"mount is not possible here: {done.stderr.decode()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)
