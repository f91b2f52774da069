"""Brings the files of a checkpoint back before a restore: `rollback` on the host, `cut_back` for redirected output.

Called by the supervisor with no process of the job alive. Nothing is destroyed: what is removed or replaced is first
kept aside (`ckptrun.journal.aside`). Every step can be repeated: after a crash or a full disk the same call finishes the work.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ckptrun.journal.aside import ASIDE_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ckptrun.core.model import Source
    from ckptrun.journal.aside import SetAside
    from ckptrun.journal.record import FileRecord


@dataclass(frozen=True, slots=True)
class RollbackReport:
    """What a rollback did; names are the job's paths.

    Args:
        restored: written anew, created, or removed because the checkpoint had no such file in a preserved subtree.
        truncated: cut back to the recorded size.
        untouched: found as recorded (attributes may have been set back).
        set_aside: what was kept of the bytes removed.
        problems: sentences naming the files that are NOT as recorded: inexact in the checkpoint, or not writable now.
    """

    restored: tuple[str, ...]
    truncated: tuple[str, ...]
    untouched: tuple[str, ...]
    set_aside: tuple[SetAside, ...]
    problems: tuple[str, ...]


def rollback(
    records: Iterable[FileRecord],
    contents: Callable[[str], Source],
    *,
    aside: Path,
    root: Path = Path("/"),
    aside_limit: int = ASIDE_LIMIT,
    step: Callable[[str], None] = lambda _name: None,
) -> RollbackReport:
    """Make every recorded file what it was at the checkpoint; records of private trees are skipped (see `populate`).

    Args:
        records: of the checkpoint.
        contents: gives the content of a key; asked only for files that must be written.
        aside: folder that keeps what is removed; made if missing.
        root: prefix for all paths.
        aside_limit: bytes kept aside over all rollbacks; the oldest go first, the newest is always kept.
        step: called with a name before each change, for fault injection in tests.

    Raises:
        StoreFullError: a filesystem is full; nothing was destroyed, the same call can be made again.
        CorruptError: a content does not have the bytes its key says; the file was left as it was.
        Exception: whatever ``contents`` raises, likewise.
    """
    raise NotImplementedError


def cut_back(path: Path, size: int, *, aside: Path, aside_limit: int = ASIDE_LIMIT) -> SetAside | None:
    """Cut a file back to ``size`` bytes, keeping aside what is cut; None if it was no longer than that.

    Its modification time is left to the kernel. For redirected output, whose place is the supervisor's.

    Raises:
        StoreFullError: no room to keep the tail; the file was left as it was.
        OSError: the file cannot be opened or cut.
    """
    raise NotImplementedError
