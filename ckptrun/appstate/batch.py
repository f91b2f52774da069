"""What one request has brought: a batch in memory, or in a file of its own while it arrives in parts."""

from __future__ import annotations

import tempfile
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Protocol

from ckptrun.appstate.files import copy, write

if TYPE_CHECKING:
    from pathlib import Path

MOST_UPLOADS = 64
"""Batches that arrive in parts at a time: each process of a job sends one."""


class Batch(Protocol):
    """A batch's bytes."""

    @property
    def size(self) -> int:
        """How many they are."""

    @property
    def check(self) -> int:
        """Their CRC-32."""

    def read(self, at: int, size: int) -> bytes:
        """Return some of them."""

    def copy_to(self, fd: int, at: int) -> None:
        """Write them into a file. Raises OSError."""


class Whole:
    """A batch that came at once."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)
        self.check = zlib.crc32(data)

    def read(self, at: int, size: int) -> bytes:
        """See `Batch`."""
        return self._data[at : at + size]

    def copy_to(self, fd: int, at: int) -> None:
        """See `Batch`."""
        write(fd, at, self._data)


@dataclass(slots=True)
class Upload:
    """A batch that arrives in parts.

    Args:
        total: bytes that there will be.
        size: bytes that are there.
        check: their CRC-32.
    """

    file: IO[bytes]
    total: int
    size: int = 0
    check: int = 0

    def read(self, at: int, size: int) -> bytes:
        """See `Batch`."""
        self.file.seek(at)
        return self.file.read(size)

    def copy_to(self, fd: int, at: int) -> None:
        """See `Batch`."""
        copy(self.file.fileno(), 0, fd, at, self.size)


class UnknownUploadError(Exception):
    """Nobody knows of the parts that came before: they are to be sent again."""


class Uploads:
    """The batches that arrive in parts. Not thread-safe: its owner locks.

    Args:
        folder: takes their files.
        room: bytes that all of them may have.
    """

    def __init__(self, folder: Path, room: int) -> None:
        self._folder = folder
        self._room = room
        self._open: OrderedDict[str, Upload] = OrderedDict()

    def part(self, name: str, at: int, total: int, data: bytes) -> None:
        """Take a part; one that has come before does not matter.

        Raises:
            UnknownUploadError: the part before it has not come.
            OSError: it cannot be written.
        """
        upload = self._open.get(name)
        if upload is None and at == 0:
            upload = self._begin(name, total)
        if upload is None or at > upload.size:
            raise UnknownUploadError
        self._open.move_to_end(name)
        if at == upload.size:
            write(upload.file.fileno(), at, data)
            upload.check = zlib.crc32(data, upload.check)
            upload.size += len(data)

    def whole(self, name: str, total: int) -> Upload:
        """Return a batch of which every part has come. Raises UnknownUploadError."""
        upload = self._open.get(name)
        if upload is None or upload.size != total:
            raise UnknownUploadError
        return upload

    def forget(self, name: str) -> None:
        """Drop a batch."""
        if upload := self._open.pop(name, None):
            upload.file.close()

    def clear(self) -> None:
        """Drop all: they are of an incarnation that has ended."""
        for name in list(self._open):
            self.forget(name)

    def _begin(self, name: str, total: int) -> Upload:
        """Make room for another one: those that were idle for longest are sent again, if anybody still does."""
        while self._open and (len(self._open) >= MOST_UPLOADS or self._bytes() + total > self._room):
            self.forget(next(iter(self._open)))
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._open[name] = upload = Upload(tempfile.TemporaryFile(dir=self._folder, buffering=0), total)  # noqa: SIM115
        return upload

    def _bytes(self) -> int:
        return sum(upload.total for upload in self._open.values())
