"""Puts one recorded file on disk: its content, its attributes, whatever its kind.

Called by the rollback and by `populate`; decides nothing about what was there before.
"""

# Names are strings with surrogates here, next to descriptors and raw calls; Path would add nothing.
# ruff: noqa: PTH101, PTH102, PTH104, PTH106, PTH108, PTH112, PTH114, PTH120, PTH211

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from blake3 import blake3

from ckptrun.errors import CorruptError, StoreFullError
from ckptrun.journal.contents import part_runs, xattrs_of
from ckptrun.journal.record import Kind, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

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
        raise StoreFullError(message, hint="free some space there and run the same command again") from error


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


def make(record: FileRecord, contents: Callable[[str], Source], full: str) -> None:
    """Make what a record says where nothing stands; attributes are not set, hard links are not made.

    Raises:
        StoreFullError, CorruptError: nothing was made.
        OSError: it cannot be made.
    """
    with room_for(full):
        match record.kind:
            case Kind.FILE:
                temporary = write_beside(record, contents, full)
                if temporary is None:
                    raise PermissionError(errno.EACCES, "the folder takes no new file", full)
                try:
                    os.rename(temporary, full)
                except BaseException:
                    clear_leftover(full)
                    raise
            case Kind.DIRECTORY:
                os.mkdir(full, 0o700)
            case Kind.SYMLINK:
                os.symlink(record.target, full)
            case Kind.FIFO:
                os.mkfifo(full, 0o600)
            case Kind.SOCKET:
                os.mknod(full, stat.S_IFSOCK | 0o600)
            case Kind.ABSENT | Kind.SKIPPED:
                pass


def make_parents(full: str, record: FileRecord) -> None:
    """Make the missing folders above a file; they get the file's owner, and mode 0755.

    Raises:
        NotADirectoryError: something else stands where a folder was: somebody's, which stays.
    """
    missing = []
    folder = os.path.dirname(full)
    while folder and not os.path.isdir(folder):
        if os.path.lexists(folder):
            what = "a symlink to nothing" if os.path.islink(folder) else "no folder any more"
            why = f"{printable(folder)} is {what}; move it away and run the same command again"
            raise NotADirectoryError(errno.ENOTDIR, why, folder)
        missing.append(folder)
        folder = os.path.dirname(folder)
    with room_for(full):
        for made in reversed(missing):
            os.mkdir(made, 0o755)
            with suppress(PermissionError):
                os.chown(made, record.uid, record.gid)


def removed_folder(full: str) -> bool:
    """Remove a folder; false if it holds something (somebody's, or another tree) or is a mount point.

    Raises:
        OSError: it cannot be removed.
    """
    try:
        os.rmdir(full)
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY}:
            return False
        raise
    return True


def set_attributes(record: FileRecord, full: str) -> list[str]:
    """Set owner, mode, extended attributes and modification time where they differ.

    Returns:
        A sentence for each that could not be set.
    """
    missed = []
    for name, change in (
        ("owner", _set_owner),
        ("mode", _set_mode),
        ("extended attributes", _set_xattrs),
        ("modification time", _set_time),
    ):
        try:
            with room_for(full):
                change(record, full, os.lstat(full))
        except OSError as error:
            missed.append(f"the {name} of {printable(record.path)} cannot be set back: {error.strerror}")
    return missed


def _set_owner(record: FileRecord, full: str, now: os.stat_result) -> None:
    if (now.st_uid, now.st_gid) != (record.uid, record.gid):
        os.chown(full, record.uid, record.gid, follow_symlinks=False)


def _set_mode(record: FileRecord, full: str, now: os.stat_result) -> None:
    if record.kind is not Kind.SYMLINK and stat.S_IMODE(now.st_mode) != record.mode:
        os.chmod(full, record.mode)


def _set_xattrs(record: FileRecord, full: str, _now: os.stat_result) -> None:
    if record.kind is Kind.SYMLINK:
        return
    now = dict(xattrs_of(full))
    wanted = dict(record.xattrs)
    for name in now.keys() - wanted.keys():
        if name.startswith("user."):
            os.removexattr(full, name, follow_symlinks=False)
    for name, value in wanted.items():
        if now.get(name) != value:
            try:
                os.setxattr(full, name, value, follow_symlinks=False)
            except OSError:
                if name.startswith(
                    ("user.", "system.")
                ):  # labels of security modules are the machine's affair
                    raise


def _set_time(record: FileRecord, full: str, now: os.stat_result) -> None:
    if now.st_mtime_ns != record.mtime_ns:
        os.utime(full, ns=(now.st_atime_ns, record.mtime_ns), follow_symlinks=False)


def in_order(records: Iterable[FileRecord]) -> list[FileRecord]:
    """Return records in the order they can be made: folders, files, the other kinds, hard links."""
    ranks = {Kind.DIRECTORY: 0, Kind.FILE: 1}
    return sorted(records, key=lambda record: (bool(record.link), ranks.get(record.kind, 2)))
