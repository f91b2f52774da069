"""Puts one recorded file on disk: its content, its attributes, whatever its kind.

Called by the rollback and by `populate`; decides nothing about what was there before.
"""

# Names are strings with surrogates here, next to descriptors and raw calls; Path would add nothing.
# ruff: noqa: PTH101, PTH102, PTH104, PTH106, PTH112, PTH114, PTH120, PTH211

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from ckptrun.journal.contents import xattrs_of
from ckptrun.journal.filling import clear_leftover, room_for, write_beside
from ckptrun.journal.record import Kind, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ckptrun.core.model import Source
    from ckptrun.journal.record import FileRecord


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
