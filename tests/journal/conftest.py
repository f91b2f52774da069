"""The journal's fixtures: jobs under control, and file systems of every kind."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from journalkit import CONTENT, Checkpoint, Job, Keeper, mounted

from ckptrun.journal import Journal, taking

if TYPE_CHECKING:
    from collections.abc import Iterator


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
def settled_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the times of files trusted after some ticks of the kernel's clock, not after a second."""
    monkeypatch.setattr(taking, "SETTLED_NS", 60_000_000)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "file"


@pytest.fixture
def checkpoint(job: Job, keeper: Keeper, file: Path) -> Checkpoint:
    """A checkpoint of one file, whose job is dead."""
    file.parent.mkdir()
    job.do("f = open('folder/file', 'wb', 0)", f"f.write({CONTENT!r})")
    taken = keeper.take(job)
    job.kill()
    return taken


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 8 MiB."""
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=8m", "small") as place:
        yield place


@pytest.fixture
def memory_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem where stores through a mapping change no time."""
    with mounted(tmp_path / "memory", "-t", "tmpfs", "memory") as place:
        yield place


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
    with mounted(tmp_path / "btrfs", "-o", "loop", str(image)) as place:
        yield place


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An empty ext4 of 4 MiB in a file, all of it anybody's."""
    image = tmp_path / "ext4.img"
    with image.open("wb") as file:
        file.truncate(4 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", image], check=True)
    return image


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user can reach."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)
