"""Brings one recorded path back: `Bringing`, the means and the account of one rollback.

Called by `rollback` for each record, and by `Undoing` for files that must go. Nothing is destroyed: what is removed
or replaced is first kept aside. What the system refuses is a problem, by name; a full disk is an exception.
"""

# Names are strings with surrogates here, next to descriptors and raw calls; Path would add nothing.
# ruff: noqa: PTH108, PTH120

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptrun.errors import StoreFullError
from ckptrun.journal.candidates import under
from ckptrun.journal.comparing import Verdict, compare
from ckptrun.journal.contents import flags_of
from ckptrun.journal.filling import (
    clear_leftover,
    copy_in_place,
    open_to_write,
    replaces,
    room_for,
    writable,
    write_beside,
    write_in_place,
)
from ckptrun.journal.record import FileRecord, Kind, printable
from ckptrun.journal.trees import kind_of, resolve
from ckptrun.journal.writing import make, make_parents, set_attributes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ckptrun.core.model import Source
    from ckptrun.journal.aside import Aside, SetAside

_REPLACED = "replaced"
_CREATED = "created after the checkpoint"


@dataclass(slots=True)
class Bringing:
    """One rollback: its means, and what it has done so far.

    Args:
        prefix: through which paths are reached.
        contents: gives the content of a key.
        aside: keeps what is removed.
        step: is told of each change before it is made.
        closed: folders that no path may lead into.
    """

    prefix: str
    contents: Callable[[str], Source]
    aside: Aside
    step: Callable[[str], None]
    closed: Sequence[str] = ()
    restored: list[str] = field(default_factory=list)
    truncated: list[str] = field(default_factory=list)
    untouched: list[str] = field(default_factory=list)
    set_aside: list[SetAside] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _ways: set[str] = field(default_factory=set)

    def check_way(self, path: str) -> None:
        """See that nobody has led the way to a path elsewhere, with the rights that we have and they lack.

        Raises:
            PermissionError: a folder on it is now a symlink of somebody's who is neither root nor us, or leads into
                a closed folder.
        """
        folder = os.path.dirname(path)
        if folder in self._ways:
            return

        def look(link: str) -> None:
            owner = os.lstat(link).st_uid
            if owner not in {0, os.geteuid()}:
                what = (
                    f"{printable(link[len(self.prefix) :])}, on the way to it, is a symlink of user {owner}"
                )
                raise PermissionError(errno.EACCES, what, link)

        if under(resolve(self.prefix or "/", folder, look), self.closed):
            raise PermissionError(errno.EACCES, "its folder is a symlink into ckptrun's own", folder)
        self._ways.add(folder)

    def one(self, record: FileRecord) -> None:
        """Bring one path back; what the system refuses becomes a problem, a full disk an exception."""
        if record.kind in {Kind.ABSENT, Kind.SKIPPED}:
            return
        if not record.exact:
            self.problems.append(f"{printable(record.path)} is not in the checkpoint and stays as it is now")
            return
        before = len(self.problems)
        with self.trying(record.path, "rolled back"):
            self.check_way(record.path)
            self._one(record, self.prefix + record.path)
        if len(self.problems) == before and record.kind is not Kind.DIRECTORY and not record.link:
            self.attributes(record)

    def attributes(self, record: FileRecord) -> None:
        """Set what differs of owner, mode, extended attributes and time."""
        if not record.exact or not os.path.lexists(self.prefix + record.path):
            return
        with self.trying(record.path, "given its attributes back"):
            self.check_way(record.path)
            self.step("attributes")
            self.problems += set_attributes(record, self.prefix + record.path)

    def move_aside(self, path: str) -> None:
        """Remove a file that the job made after the checkpoint, keeping it."""
        self.remove(path, _CREATED)

    def remove(self, path: str, reason: str) -> None:
        """Remove a file, keeping it. Raises OSError."""
        full = self.prefix + path
        self._keep(full, path, reason)
        self.step("remove")
        os.unlink(full)
        self.restored.append(path)

    @contextmanager
    def trying(self, path: str, what: str) -> Iterator[None]:
        """Do something to a path; that the system refuses it becomes a problem. Raises StoreFullError."""
        full = self.prefix + path
        try:
            with room_for(full):
                yield
        except OSError as error:
            self.problems.append(
                f"{printable(path)} cannot be {what}: {error.strerror}{_why(full)}; it stays as it is now"
            )

    def _one(self, record: FileRecord, full: str) -> None:
        if record.kind is Kind.FILE:
            clear_leftover(full)
        verdict = compare(record, full, self.prefix + record.link)
        if verdict is Verdict.SAME:
            self.untouched.append(record.path)
        elif verdict is Verdict.LONGER and self._truncate(record, full):
            self.truncated.append(record.path)
        else:
            self._write(record, full, verdict)
            self.restored.append(record.path)
            if record.append and verdict is Verdict.DIFFERENT:
                self.notes.append(
                    f"{printable(record.path)} no longer began with what the job had appended to it: it has been "
                    "written anew, and what stood there is kept aside (ckptrun files)"
                )

    def _truncate(self, record: FileRecord, full: str) -> bool:
        """Cut a file back; false if it cannot be opened for writing, so that it must be replaced."""
        try:
            fd = open_to_write(full)
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
            os.link(self.prefix + record.link, full, follow_symlinks=False)
        else:
            make(record, self.contents, full)

    def _replace(self, record: FileRecord, full: str) -> None:
        """Replace a file: by a new one and a rename, or in place if that cannot be or somebody knows it otherwise.

        A job that had it open may know it by its inode (see `identities`). In place takes room for a copy of what
        stands there; where that is too much, the inode is given up.
        """
        status = os.lstat(full)
        known = (status.st_dev, status.st_ino) == record.opened and status.st_size <= self.aside.limit
        links = status.st_nlink - self.aside.links_to(full, record.path, _REPLACED)
        shared = not record.tree and links > 1
        self.step("write")
        temporary = None if shared else write_beside(record, self.contents, full)
        if temporary is not None:
            try:
                if known and self._copied(record, temporary, full):
                    os.unlink(temporary)
                    return
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

    def _copied(self, record: FileRecord, temporary: str, full: str) -> bool:
        """Bring a file back in place from what was written beside it; false, and nothing changed, if that cannot be."""
        if not writable(full):
            return False
        try:
            self._keep(full, record.path, _REPLACED, copy=True)
        except StoreFullError:
            return False
        self.step("write in place")
        copy_in_place(record, temporary, full)
        return True

    def _clear(self, full: str, path: str) -> None:
        """Make a path free for something of another kind."""
        if kind_of(os.lstat(full)) is Kind.DIRECTORY:
            self.step("aside")
            self.set_aside.append(self.aside.move_folder(full, path, _REPLACED))
        else:
            self._keep(full, path, _REPLACED)
            self.step("remove")
            os.unlink(full)

    def _keep(self, full: str, path: str, reason: str, *, copy: bool = False) -> None:
        self.step("aside")
        self.set_aside.append(self.aside.keep(full, path, reason, copy=copy))


def _why(full: str) -> str:
    """Return what a refusal is due to, if it can be told: a clause in brackets."""
    for path, what in ((full, "it"), (os.path.dirname(full), "its folder")):
        flags = flags_of(path)
        if flags:
            return f" ({what} is {flags}: see chattr(1))"
    return ""
