"""Brings the files of a checkpoint back before a restore: `rollback`, and `keep_tail` for output.

Called by the supervisor with no process of the job alive. Nothing is destroyed: what is removed or replaced
is first kept aside (`ckptrun.journal.aside`). Every step can be repeated: after a crash or a full disk the
same call goes on.
"""

# Names are strings with surrogates here, next to descriptors and raw calls; Path would add nothing.
# ruff: noqa: PTH100, PTH106, PTH108

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ckptrun.journal.aside import ASIDE_LIMIT, Aside
from ckptrun.journal.comparing import Verdict, compare
from ckptrun.journal.places import Places
from ckptrun.journal.record import FileRecord, Kind, printable
from ckptrun.journal.trees import kind_of, walk
from ckptrun.journal.undoing import Undoing
from ckptrun.journal.writing import (
    clear_leftover,
    in_order,
    make,
    make_parents,
    replaces,
    room_for,
    set_attributes,
    write_beside,
    write_in_place,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ckptrun.core.model import Source
    from ckptrun.journal.aside import SetAside
    from ckptrun.journal.fanotify import Event

_NOT_RECORDED = "not in the checkpoint"
_REPLACED = "replaced"
_CREATED = "created after the checkpoint"


@dataclass(frozen=True, slots=True)
class RollbackReport:
    """What a rollback did; names are the job's paths.

    Args:
        restored: written anew, created, or removed because a preserved subtree did not have it.
        truncated: cut back to the recorded size.
        untouched: found as recorded (attributes may have been set back).
        set_aside: what was kept of the bytes removed.
        problems: sentences naming the files that are NOT as recorded: not in the checkpoint, or not writable.
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
        ignore: ckptrun's own paths, which no preserved subtree reaches into; ``aside`` is one of itself.
        since: what the job has done since the checkpoint on this machine (see `Journal.since`).
        aside_limit: bytes kept aside over all rollbacks; the oldest go first, the newest is always kept.
        step: called with a name before each change; faults are injected there.

    Raises:
        StoreFullError: a filesystem is full; nothing was destroyed, the same call can be made again.
        CorruptError: a content does not have the bytes its key says; what stood there is kept.
        Exception: whatever ``contents`` raises, likewise.
    """
    hosts = in_order(record for record in records if not record.private)
    work = _Rollback(os.fspath(root).rstrip("/"), contents, Aside(aside, aside_limit), step)
    if since:
        work.undo(hosts, since, (*ignore, os.path.abspath(aside)))
    for record in hosts:
        work.one(record)
    work.remove_others(hosts, (*ignore, os.path.abspath(aside)))
    for record in reversed(hosts):  # writing into a folder changes its time
        if record.kind is Kind.DIRECTORY:
            work.attributes(record)
    return RollbackReport(
        tuple(work.restored),
        tuple(work.truncated),
        tuple(work.untouched),
        tuple(work.set_aside),
        tuple(work.problems),
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


@dataclass(slots=True)
class _Rollback:
    """One rollback: its means, and what it has done so far."""

    prefix: str
    contents: Callable[[str], Source]
    aside: Aside
    step: Callable[[str], None]
    restored: list[str] = field(default_factory=list)
    truncated: list[str] = field(default_factory=list)
    untouched: list[str] = field(default_factory=list)
    set_aside: list[SetAside] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def one(self, record: FileRecord) -> None:
        """Bring one path back; what the system refuses becomes a problem, a full disk an exception."""
        if record.kind in {Kind.ABSENT, Kind.SKIPPED}:
            return
        if not record.exact:
            self.problems.append(f"{printable(record.path)} is not in the checkpoint and stays as it is now")
            return
        full = self.prefix + record.path
        if record.kind is Kind.FILE:
            clear_leftover(full)
        try:
            verdict = compare(record, full, self.prefix + record.link)
            if verdict is Verdict.SAME:
                self.untouched.append(record.path)
            elif verdict is Verdict.LONGER and self._truncate(record, full):
                self.truncated.append(record.path)
            else:
                self._write(record, full, verdict)
                self.restored.append(record.path)
        except OSError as error:
            self.problems.append(f"{printable(record.path)} cannot be rolled back: {error.strerror}")
            return
        if record.kind is not Kind.DIRECTORY and not record.link:
            self.attributes(record)

    def undo(self, records: Sequence[FileRecord], since: Sequence[Event], ignore: Sequence[str]) -> None:
        """Undo what the job has done to names; preserved subtrees are compared as a whole."""
        places = Places(self.prefix or "/")
        trees = {record.tree for record in records if record.tree}
        recorded = {record.path for record in records if record.kind not in {Kind.ABSENT, Kind.SKIPPED}}
        try:
            Undoing(places, recorded, (*ignore, *trees), self, self.problems, self.restored).undo(since)
        finally:
            places.close()

    def move_aside(self, path: str) -> None:
        """Remove a file that the job made after the checkpoint, keeping it."""
        full = self.prefix + path
        self._keep(full, path, _CREATED)
        self.step("remove")
        os.unlink(full)
        self.restored.append(path)

    def attributes(self, record: FileRecord) -> None:
        """Set what differs of owner, mode, extended attributes and time."""
        if record.exact and os.path.lexists(self.prefix + record.path):
            self.step("attributes")
            self.problems += set_attributes(record, self.prefix + record.path)

    def remove_others(self, records: Iterable[FileRecord], ignore: Iterable[str]) -> None:
        """Move aside what preserved subtrees hold that the checkpoint does not have."""
        tops: dict[str, set[str]] = {}
        stop = {*ignore}
        for record in records:
            if record.tree:
                names = tops.setdefault(record.tree, set())
                if record.kind is Kind.SKIPPED:
                    stop.add(record.path)
                elif record.kind is not Kind.ABSENT:
                    names.add(record.path)
        for top, names in tops.items():
            others = [entry for entry in walk(self.prefix, top, stop, []) if entry.path not in names]
            for entry in reversed(others):  # what is in a folder before the folder
                try:
                    self._remove(entry.path, entry.status)
                except OSError as error:
                    self.problems.append(f"{printable(entry.path)} cannot be moved aside: {error.strerror}")

    def _remove(self, path: str, status: os.stat_result) -> None:
        full = self.prefix + path
        if not stat.S_ISDIR(status.st_mode):
            self._keep(full, path, _NOT_RECORDED)
            self.step("remove")
            os.unlink(full)
            self.restored.append(path)
        else:
            self.step("remove")
            with suppress(OSError):  # not empty: it holds another tree, or a mount
                os.rmdir(full)

    def _truncate(self, record: FileRecord, full: str) -> bool:
        """Cut a file back; false if it cannot be opened for writing, so that it must be replaced."""
        try:
            fd = os.open(full, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except PermissionError:
            return False
        try:
            self.step("aside")
            self.set_aside.append(self.aside.keep_tail(fd, record.path, record.size))
            self.step("truncate")
            os.ftruncate(fd, record.size)
        finally:
            os.close(fd)
        return True

    def _write(self, record: FileRecord, full: str, verdict: Verdict) -> None:
        if verdict is Verdict.MISSING:
            make_parents(full, record)
        elif verdict is Verdict.OTHER_KIND:
            self._clear(full, record.path)
        elif record.kind is Kind.FILE and not record.link:
            self._replace(record, full)
            return
        else:
            self._clear(full, record.path)  # another symlink target, another hard link
        self.step("write")
        if record.link:
            with room_for(full):
                os.link(self.prefix + record.link, full, follow_symlinks=False)
        else:
            make(record, self.contents, full)

    def _replace(self, record: FileRecord, full: str) -> None:
        """Replace a file: by a new one and a rename, or in place if that cannot be or it has other names."""
        links = os.lstat(full).st_nlink - self.aside.links_to(full, record.path, _REPLACED)
        shared = not record.tree and links > 1
        self.step("write")
        temporary = None if shared else write_beside(record, self.contents, full)
        if temporary is not None:
            try:
                self.problems += set_attributes(record, temporary)
                self._keep(full, record.path, _REPLACED)
                self.step("rename")
            except BaseException:
                os.unlink(temporary)
                raise
            if replaces(temporary, full):
                return
        self._keep(full, record.path, _REPLACED, copy=True)
        self.step("write in place")
        write_in_place(record, self.contents, full)

    def _clear(self, full: str, path: str) -> None:
        """Make a path free for something of another kind."""
        status = os.lstat(full)
        if kind_of(status) is Kind.DIRECTORY:
            self.step("aside")
            self.set_aside.append(self.aside.move_folder(full, path, _REPLACED))
        else:
            self._keep(full, path, _REPLACED)
            self.step("remove")
            os.unlink(full)

    def _keep(self, full: str, path: str, reason: str, *, copy: bool = False) -> None:
        self.step("aside")
        self.set_aside.append(self.aside.keep(full, path, reason, copy=copy))
