"""The content of one regular file on its way to disk: beside the file that it replaces, or in its place.

Called by the rollback and by `writing`; decides nothing about what was there before. A full disk is a StoreFullError.
"""

# Names are strings with surrogates here, next to descriptors and raw calls; Path would add nothing.
# ruff: noqa: PTH101, PTH104, PTH108

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from blake3 import blake3

from ckptrun.errors import CorruptError, StoreFullError
from ckptrun.journal.contents import cloned, data_runs, part_runs, read_runs
from ckptrun.journal.record import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckptrun.core.model import Source
    from ckptrun.journal.record import FileRecord

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_RENAME = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY})
"""The folder takes no new file, or the file itself is a mount point: it must be written where it stands."""


@contextmanager
def room_for(path: str, kept_in: str = "") -> Iterator[None]:
    """Turn a full disk into StoreFullError, naming what was being written.

    Args:
        path: the file, in the job's eyes.
        kept_in: the folder that a copy of it was being kept in; empty if it was itself being written.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        what = f"to write {printable(path)}"
        if kept_in:
            what = (
                f"in {printable(kept_in)} to keep what stands at {printable(path)} before it is rolled back"
            )
        message = f"no room on the filesystem {what}: {error.strerror}"
        hint = "free some space there and run the same command again; if it is a pod's emptyDir, raise its sizeLimit"
        raise StoreFullError(message, hint=hint) from error


def temporary_name(full: str) -> str:
    """Return the name a file is written under before it gets its own.

    It depends on nothing but the path, so that what a crash leaves behind is found by the next try.
    """
    folder, name = os.path.split(full)
    return f"{folder}/.ckptrun-{blake3(os.fsencode(name)).hexdigest(8)}"


def write_beside(record: FileRecord, contents: Callable[[str], Source], full: str) -> str | None:
    """Write a file under a temporary name in its folder; None if the folder takes no new file.

    Raises:
        StoreFullError, CorruptError: and nothing is left behind.
    """
    temporary = temporary_name(full)
    try:
        with room_for(full):
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in _NO_RENAME:
            return None
        raise
    try:
        with room_for(full):
            _fill(fd, record, contents)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(fd)
    return temporary


def replaces(temporary: str, full: str) -> bool:
    """Rename a file over another; false (and the temporary one is gone) if that cannot be."""
    try:
        os.rename(temporary, full)
    except OSError as error:
        os.unlink(temporary)
        if error.errno in _NO_RENAME:
            return False
        raise
    return True


def clear_leftover(full: str) -> None:
    """Remove what a crash left of an earlier try to write a file."""
    with suppress(OSError):
        os.unlink(temporary_name(full))


def open_to_write(full: str) -> int:
    """Open a file to read and write it; one of our own that has been made read-only is made writable.

    Raises:
        OSError: it cannot be opened.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(full, flags)
    except PermissionError:
        status = os.lstat(full)
        if status.st_uid != os.geteuid() or not stat.S_ISREG(status.st_mode):
            raise
        os.chmod(full, stat.S_IMODE(status.st_mode) | stat.S_IRUSR | stat.S_IWUSR)
        return os.open(full, flags)


def write_in_place(record: FileRecord, contents: Callable[[str], Source], full: str) -> None:
    """Write a file's content where it stands: the inode and its other names stay.

    Raises:
        StoreFullError, CorruptError: its content is then incomplete, and the next try completes it.
    """
    fd = open_to_write(full)
    try:
        with room_for(full):
            os.ftruncate(fd, 0)
            _fill(fd, record, contents)
    finally:
        os.close(fd)


def writable(full: str) -> bool:
    """Say whether a file can be opened to be written in place; one of our own is made so."""
    try:
        os.close(open_to_write(full))
    except OSError:
        return False
    return True


def copy_in_place(record: FileRecord, temporary: str, full: str) -> None:
    """Give a file the content that was written beside it, where it stands; see `write_in_place`."""
    source = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
    try:
        target = open_to_write(full)
        try:
            with room_for(full):
                if not cloned(source, target):
                    os.ftruncate(target, 0)
                    os.ftruncate(target, record.size)
                    for offset, length in data_runs(record.size, record.holes):
                        position = offset
                        for piece in read_runs(source, [(offset, length)]):
                            view = memoryview(piece)
                            while view:
                                written = os.pwrite(target, view, position)
                                position += written
                                view = view[written:]
        finally:
            os.close(target)
    finally:
        os.close(source)


def _fill(fd: int, record: FileRecord, contents: Callable[[str], Source]) -> None:
    """Write the parts to their places in an empty file; holes stay holes."""
    os.ftruncate(fd, record.size)
    for part, runs in part_runs(record):
        digest = blake3()
        places = iter(runs)
        offset, room = next(places, (0, 0))
        for piece in contents(part.key).pieces():
            digest.update(piece)
            view = memoryview(piece)
            while view:
                if not room:
                    offset, room = next(places, (0, 0))
                    if not room:
                        raise CorruptError(_wrong(record, part.key))
                written = os.pwrite(fd, view[:room], offset)
                view = view[written:]
                offset += written
                room -= written
        if f"f-{digest.hexdigest()}" != part.key:
            raise CorruptError(_wrong(record, part.key))


def _wrong(record: FileRecord, key: str) -> str:
    return f"the content {key} of {printable(record.path)} is not what the checkpoint recorded"
