"""Says how a file on disk stands to its record: the same, the same and longer, different.

Called by the rollback; reads, changes nothing.
"""

# Names are strings with surrogates here, next to descriptors and raw calls; Path would add nothing.
# ruff: noqa: PTH115

from __future__ import annotations

import enum
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ckptrun.errors import CorruptError
from ckptrun.journal.contents import is_zero, key_of, part_runs, read_runs
from ckptrun.journal.record import Identity, Kind
from ckptrun.journal.trees import kind_of

if TYPE_CHECKING:
    from ckptrun.journal.record import FileRecord


class Verdict(enum.Enum):
    """How what stands at a path stands to its record."""

    SAME = enum.auto()
    LONGER = enum.auto()
    DIFFERENT = enum.auto()
    OTHER_KIND = enum.auto()
    MISSING = enum.auto()


@cache
def boot_id() -> str:
    """Return the kernel's id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def compare(record: FileRecord, full: str, linked: str) -> Verdict:
    """Compare a record with what stands at ``full``.

    A file whose times are those of the capture is the same without being read, if times can prove it (see
    `FileRecord.identity`); any other is read.

    Args:
        record: says what should be there.
        full: its path as we reach it.
        linked: likewise of the file it is a hard link of, if it is one.

    Raises:
        OSError: it cannot be read.
    """
    try:
        status = os.lstat(full)
    except (FileNotFoundError, NotADirectoryError):
        return Verdict.MISSING
    if kind_of(status) is not record.kind:
        return Verdict.OTHER_KIND
    if record.link:
        same = os.path.samestat(status, os.lstat(linked))
    elif record.kind is Kind.SYMLINK:
        same = os.readlink(full) == record.target
    elif record.kind is Kind.FILE and not _proven(record, status):
        same = status.st_size >= record.size and _holds(record, full)
        if same and status.st_size > record.size:
            return Verdict.LONGER
    else:
        same = True
    return Verdict.SAME if same else Verdict.DIFFERENT


def _proven(record: FileRecord, status: os.stat_result) -> bool:
    now = Identity(boot_id(), status.st_dev, status.st_ino, status.st_ctime_ns)
    return record.identity == now and (status.st_size, status.st_mtime_ns) == (record.size, record.mtime_ns)


def _holds(record: FileRecord, full: str) -> bool:
    """Say whether a file begins with the recorded content; it may have data (zeros) where holes were."""
    try:
        fd = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError:  # what cannot be read is not known to be the same; it may still be replaced
        return False
    try:
        return all(is_zero(fd, offset, length) for offset, length in record.holes) and all(
            key_of(read_runs(fd, runs)) == part.key for part, runs in part_runs(record)
        )
    except CorruptError:  # it became shorter, or the record contradicts itself: writing it will say which
        return False
    finally:
        os.close(fd)
