"""Files held open, and bytes into them: all of them, or an error."""

from __future__ import annotations

import contextlib
import errno
import os
import weakref
from typing import TYPE_CHECKING

from ckptrun.appstate.record import PIECE
from ckptrun.errors import CorruptError, StoreFullError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_COPY = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
"""This kernel or filesystem does not copy by itself."""


class Held:
    """A descriptor that is closed together with the object.

    Args:
        fd: taken over.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        weakref.finalize(self, os.close, fd)


class Part:
    """A `Source` that is a part of a file that only grows.

    Args:
        file: held open as long as this lives.
        at: where it begins.
        size: its bytes.
    """

    def __init__(self, file: Held, at: int, size: int) -> None:
        self._file = file
        self._at = at
        self._size = size

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes; see `Source.read`. Raises CorruptError if somebody has cut the file."""
        data = os.pread(self._file.fd, length, self._at + offset)
        if len(data) != length:
            raise CorruptError("the log of the job's state was cut while it was read")
        return data

    def pieces(self) -> Iterator[bytes]:
        """Yield the whole content."""
        for offset in range(0, self._size, PIECE):
            yield self.read(offset, min(PIECE, self._size - offset))


def write(fd: int, at: int, data: bytes | memoryview) -> None:
    """Write all of `data` at an offset. Raises OSError."""
    rest = memoryview(data)
    while rest:
        done = os.pwrite(fd, rest, at)
        rest, at = rest[done:], at + done


def copy(source: int, at: int, target: int, to: int, size: int) -> None:
    """Copy `size` bytes from one file to another; the filesystem shares them if it can.

    Raises:
        OSError: they cannot be written, or are not there.
    """
    with contextlib.suppress(_CannotCopyError):
        _copy_inside(source, at, target, to, size)
        return
    for offset in range(0, size, PIECE):
        data = os.pread(source, min(PIECE, size - offset), at + offset)
        if not data:
            raise OSError(errno.EIO, "a file was cut while it was copied")
        write(target, to + offset, data)


class _CannotCopyError(Exception):
    pass


def _copy_inside(source: int, at: int, target: int, to: int, size: int) -> None:
    first = True
    while size:
        try:
            done = os.copy_file_range(source, target, size, at, to)
        except OSError as error:
            if first and error.errno in _NO_COPY:
                raise _CannotCopyError from error
            raise
        if not done:
            raise OSError(errno.EIO, "a file was cut while it was copied")
        at, to, size, first = at + done, to + done, size - done, False


@contextlib.contextmanager
def room_in(folder: Path) -> Iterator[None]:
    """Turn a full disk into StoreFullError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise StoreFullError(
            f"no room in {folder} for the job's state: {error.strerror}",
            hint="free some space there and run the same command again",
        ) from error
