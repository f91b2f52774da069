"""The bytes of files: reading them in pieces, finding holes, cloning, and sources that hold a file open.

Used by the capture and by the rollback; knows descriptors and offsets, not which file matters.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import weakref
from typing import TYPE_CHECKING, TypeAlias

from blake3 import blake3

from ckptrun.errors import CorruptError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ckptrun.journal.record import FileRecord, Part

PIECE = 512 * 1024
"""Bytes read at a time: they still lie in a core's cache when they are stored or hashed."""

_FICLONE = 0x40049409
"""``ioctl_ficlone(2)``: ``_IOW(0x94, 9, int)``."""

_GETFLAGS = 0x80086601
"""``ioctl_iflags(2)``: ``FS_IOC_GETFLAGS``, which fills an int."""
_IMMUTABLE, _APPEND_ONLY = 0x10, 0x20

_BLOCK = 512
"""Bytes that ``st_blocks`` counts in."""

Runs: TypeAlias = "Sequence[tuple[int, int]]"
"""``(offset, length)`` in bytes, ascending."""


def key_of(pieces: Iterable[bytes | memoryview]) -> str:
    """Return the key of a content: ``f-`` and its BLAKE3 in hexadecimal."""
    digest = blake3()
    for piece in pieces:
        digest.update(piece)
    return f"f-{digest.hexdigest()}"


def read_runs(fd: int, runs: Runs) -> Iterator[bytes]:
    """Yield the bytes of the runs of a file in order.

    Raises:
        CorruptError: the file ends before a run does.
    """
    for offset, length in runs:
        position, end = offset, offset + length
        while position < end:
            piece = os.pread(fd, min(PIECE, end - position), position)
            if not piece:
                message = f"a file became shorter while it was read: {end - position} bytes are missing"
                raise CorruptError(message)
            position += len(piece)
            yield piece


class HeldFile:
    """A `Source` that is runs of a file held open; the descriptor is closed together with the object.

    Args:
        fd: taken over.
        runs: which bytes make up the content.
        key: if given, what `pieces` must hash to: for files that somebody may still change.
    """

    def __init__(self, fd: int, runs: Runs, key: str = "") -> None:
        self._fd = fd
        self._runs = tuple(runs)
        self._key = key
        self._size = sum(length for _, length in runs)
        weakref.finalize(self, os.close, fd)

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes; see `Source.read`. Raises CorruptError if the file has become shorter."""
        return b"".join(read_runs(self._fd, part_of(self._runs, offset, length)))

    def pieces(self) -> Iterator[bytes]:
        """Yield the whole content. Raises CorruptError if it is not what it was when it was captured."""
        digest = blake3()
        for piece in read_runs(self._fd, self._runs):
            if self._key:
                digest.update(piece)
            yield piece
        if self._key and f"f-{digest.hexdigest()}" != self._key:
            message = "a file that is only appended to was changed before its checkpoint was stored"
            raise CorruptError(message, hint="the next checkpoint holds its new content")


def data_runs(size: int, holes: Runs) -> tuple[tuple[int, int], ...]:
    """Return ``(offset, length)`` of what is no hole in a file of ``size`` bytes."""
    runs = []
    position = 0
    for offset, length in (*holes, (size, 0)):
        if offset > position:
            runs.append((position, offset - position))
        position = offset + length
    return tuple(runs)


def part_of(runs: Runs, offset: int, length: int) -> list[tuple[int, int]]:
    """Return where ``length`` bytes from ``offset`` of the concatenated runs lie in the file."""
    found = []
    for start, size in runs:
        if offset < size and length:
            take = min(size - offset, length)
            found.append((start + offset, take))
            length -= take
            offset = 0
        else:
            offset -= min(size, offset)
    return found


def part_runs(record: FileRecord) -> list[tuple[Part, list[tuple[int, int]]]]:
    """Return for each part of a record where its bytes lie in the file.

    Raises:
        CorruptError: the parts are not as long as the file's data.
    """
    extents = data_runs(record.size, record.holes)
    if sum(part.size for part in record.parts) != sum(length for _, length in extents):
        message = f"the record of {record.path!r} contradicts itself: its parts are not as long as its data"
        raise CorruptError(message)
    placed = []
    position = 0
    for part in record.parts:
        placed.append((part, part_of(extents, position, part.size)))
        position += part.size
    return placed


def holes_of(fd: int, status: os.stat_result) -> tuple[tuple[int, int], ...]:
    """Return the holes of a file as ``(offset, length)``; none where the filesystem cannot tell."""
    size = status.st_size
    if status.st_blocks * _BLOCK >= size:
        return ()
    found = []
    position = 0
    try:
        while position < size:
            data = _seek_data(fd, position, size)
            if data > position:
                found.append((position, data - position))
            if data >= size:
                break
            position = os.lseek(fd, data, os.SEEK_HOLE)
    except OSError:
        return ()
    return tuple(found)


def is_zero(fd: int, offset: int, length: int) -> bool:
    """Say whether a run of a file reads as zeros; a hole is not read."""
    end = offset + length
    data = _seek_data(fd, offset, end)
    return data >= end or all(not piece.strip(b"\0") for piece in read_runs(fd, [(data, end - data)]))


def _seek_data(fd: int, position: int, end: int) -> int:
    try:
        return min(os.lseek(fd, position, os.SEEK_DATA), end)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return end
        raise


def clone(fd: int, folder: str) -> int | None:
    """Return a descriptor of a nameless reflink of a file, made in ``folder``; None: it cannot be."""
    try:
        held = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    if not cloned(fd, held):
        os.close(held)
        return None
    return held


def cloned(source: int, target: int) -> bool:
    """Make a file's content that of another by a reflink; false if the filesystem cannot."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def flags_of(path: str) -> str:
    """Return ``immutable`` or ``append-only`` if a file or folder has been made so; else an empty string."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        data = fcntl.ioctl(fd, _GETFLAGS, bytes(8))
    except OSError:
        return ""
    finally:
        os.close(fd)
    flags = int.from_bytes(data[:4], sys.byteorder)
    return "immutable" if flags & _IMMUTABLE else "append-only" if flags & _APPEND_ONLY else ""


def xattrs_of(file: int | str) -> tuple[tuple[str, bytes], ...]:
    """Return the extended attributes of a file, by descriptor or path; none where the filesystem has none."""
    follow = isinstance(file, int)
    try:
        names = os.listxattr(file, follow_symlinks=follow)
        return tuple((name, os.getxattr(file, name, follow_symlinks=follow)) for name in sorted(names))
    except OSError as error:
        if error.errno in {errno.ENOTSUP, errno.ENODATA, errno.EPERM}:
            return ()
        raise
