"""Brings the files of a checkpoint back before a restore: `rollback`, and `keep_tail` for output.

Called by the supervisor with no process of the job alive. Nothing is destroyed: what is removed or replaced
is first kept aside (`ckptrun.journal.aside`). Every step can be repeated: after a crash or a full disk the
same call goes on.
"""

# Names are strings with surrogates here, next to descriptors and raw calls; Path would add nothing.
# ruff: noqa: PTH100

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ckptrun.journal.aside import ASIDE_LIMIT, Aside
from ckptrun.journal.bringing import Bringing
from ckptrun.journal.mounts import Mounted, strangers
from ckptrun.journal.places import Places
from ckptrun.journal.record import FileRecord, Kind
from ckptrun.journal.trees import walk
from ckptrun.journal.undoing import Undoing
from ckptrun.journal.writing import in_order, removed_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ckptrun.core.model import Source
    from ckptrun.journal.aside import SetAside
    from ckptrun.journal.fanotify import Event

_NOT_RECORDED = "not in the checkpoint"


@dataclass(frozen=True, slots=True)
class RollbackReport:
    """What a rollback did; names are the job's paths.

    Args:
        restored: written anew, created, or removed because a preserved subtree did not have it.
        truncated: cut back to the recorded size.
        untouched: found as recorded (attributes may have been set back).
        set_aside: what was kept of the bytes removed.
        problems: sentences naming the files that are NOT as recorded: not in the checkpoint, or not writable.
        notes: sentences for the user about the rest.
    """

    restored: tuple[str, ...]
    truncated: tuple[str, ...]
    untouched: tuple[str, ...]
    set_aside: tuple[SetAside, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def rollback(
    records: Iterable[FileRecord],
    contents: Callable[[str], Source],
    *,
    aside: Path,
    root: Path = Path("/"),
    ignore: Sequence[str] = (),
    since: Sequence[Event] = (),
    aside_limit: int = ASIDE_LIMIT,
    step: Callable[[str], None] = lambda _name: None,
) -> RollbackReport:
    """Make every recorded file what it was; records of private trees are skipped (see `populate`).

    Args:
        records: of the checkpoint.
        contents: gives the content of a key; asked only for files that must be written.
        aside: folder that keeps what is removed; made if missing.
        root: prefix for all paths.
        ignore: ckptrun's own paths, which no preserved subtree and no symlink reaches into; ``aside`` is one of itself.
        since: what the job has done since the checkpoint on this machine (see `Journal.since`).
        aside_limit: bytes kept aside over all rollbacks; the oldest go first, the newest is always kept.
        step: called with a name before each change; faults are injected there.

    Raises:
        StoreFullError: a filesystem is full; nothing was destroyed, the same call can be made again.
        CorruptError: a content does not have the bytes its key says; what stood there is kept.
        Exception: whatever ``contents`` raises, likewise.
    """
    hosts = in_order(record for record in records if not record.private)
    closed = (*ignore, os.path.abspath(aside))
    work = Bringing(os.fspath(root).rstrip("/"), contents, Aside(aside, aside_limit), step, closed)
    if since:
        _undo(work, hosts, since, closed)
    for record in hosts:
        work.one(record)
    _remove_others(work, hosts, closed)
    for record in reversed(hosts):  # writing into a folder changes its time
        if record.kind is Kind.DIRECTORY:
            work.attributes(record)
    return RollbackReport(
        tuple(work.restored),
        tuple(work.truncated),
        tuple(work.untouched),
        tuple(work.set_aside),
        tuple(work.problems),
        tuple(work.notes),
    )


def keep_tail(path: Path, size: int, *, aside: Path, aside_limit: int = ASIDE_LIMIT) -> SetAside | None:
    """Keep aside what a file holds past ``size`` bytes, before it is cut off; None if it is no longer than that.

    For redirected output.

    Raises:
        StoreFullError: no room to keep the tail.
        OSError: the file cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_size <= size:
            return None
        return Aside(aside, aside_limit).keep_tail(fd, os.fspath(path), size)
    finally:
        os.close(fd)


def _undo(
    work: Bringing, records: Sequence[FileRecord], since: Sequence[Event], ignore: Sequence[str]
) -> None:
    """Undo what the job has done to names; preserved subtrees are compared as a whole."""
    places = Places(work.prefix or "/")
    trees = {record.tree for record in records if record.tree}
    recorded = {record.path for record in records if record.kind not in {Kind.ABSENT, Kind.SKIPPED}}
    try:
        Undoing(places, recorded, (*ignore, *trees), work, work.problems, work.restored).undo(since)
    finally:
        places.close()


def _remove_others(work: Bringing, records: Sequence[FileRecord], ignore: Iterable[str]) -> None:
    """Move aside what preserved subtrees hold that the checkpoint does not have."""
    tops: dict[str, set[str]] = {}
    foreign = set() if work.prefix else strangers(records, Mounted.of("/"), work.notes)
    stop = {*ignore, *foreign}
    for record in records:
        if record.tree:
            names = tops.setdefault(record.tree, set())
            if record.kind is Kind.SKIPPED:
                stop.add(record.path)
            elif record.kind is not Kind.ABSENT:
                names.add(record.path)
    for top, names in tops.items():
        if top in foreign:
            continue
        others = []
        with work.trying(top, "rolled back as a whole"):
            work.check_way(top)
            others = [entry for entry in walk(work.prefix, top, stop, []) if entry.path not in names]
        for entry in reversed(others):  # what is in a folder before the folder
            with work.trying(entry.path, "moved aside"):
                if not stat.S_ISDIR(entry.status.st_mode):
                    work.remove(entry.path, _NOT_RECORDED)
                else:
                    work.step("remove")
                    removed_folder(work.prefix + entry.path)
