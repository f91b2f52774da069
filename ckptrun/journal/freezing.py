"""The work inside the freeze: one pass over trees and candidates that drafts a record for each file.

Called by `Journal.capture` with the job stopped. Nothing here hashes a content or waits for anything but the
disk.
"""

# Names are strings with surrogates here, next to descriptors and raw calls; Path would add nothing.
# ruff: noqa: PTH120

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ckptrun.errors import CorruptError
from ckptrun.journal.candidates import Candidate, under
from ckptrun.journal.contents import xattrs_of
from ckptrun.journal.record import FileRecord, How, Kind
from ckptrun.journal.taking import Taken, end_of, settled
from ckptrun.journal.trees import kind_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ckptrun.journal.candidates import CandidateSet, Ident
    from ckptrun.journal.mounts import Mounted
    from ckptrun.journal.sight import Sight
    from ckptrun.journal.taking import Known, Piece, Prefix, Taker


@dataclass(frozen=True, slots=True)
class Draft:
    """A record whose content is not named yet.

    Args:
        record: all but the parts.
        pieces: what the parts will be made of.
        status: of a regular file with content of its own: what ``fstat`` said when it was read.
        trusted: see `Known`.
        append_only: likewise.
        end: likewise.
    """

    record: FileRecord
    pieces: tuple[Piece, ...] = ()
    status: os.stat_result | None = None
    trusted: bool = False
    append_only: bool = False
    end: str = ""


@dataclass(slots=True)
class Freezing:
    """One capture: what it may use, and what it has found so far.

    Args:
        sight: how the job's files are seen.
        found: the candidates, scanned inside the freeze.
        taker: takes contents.
        known: see `Prepared`.
        prefixes: likewise.
        mounted: the mounts of the job's namespace.
    """

    sight: Sight
    found: CandidateSet
    taker: Taker
    known: Mapping[Ident, Known]
    prefixes: Mapping[Ident, Prefix]
    mounted: Mounted
    drafts: list[Draft] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    copied: int = 0
    seen: dict[Ident, str] = field(default_factory=dict)

    def tree(self, path: str, stop: frozenset[str], *, private: bool) -> None:
        """Take a whole subtree, or a single file; a preserved one that is missing is recorded as absent."""
        try:
            top = self.sight.resolve(path)
        except OSError as error:
            self._problem(path, f"cannot be followed ({error.strerror})")
            return
        if not private and (kernels := self.mounted.kernels_at(top)):
            self._problem(path, f"is on a filesystem of the kernel's own ({kernels}), which keeps no files")
            return
        stop |= self.mounted.kernels.keys()
        unread: list[str] = []
        empty = True
        for entry in self.sight.walk(top, stop, unread):
            empty = False
            self._entry(entry.path, entry.status, top, private=private)
        for missed in unread:
            self._skip(missed, top, "cannot be read")
        for other in sorted(stop):
            if under(other, (top,)):
                self.drafts.append(Draft(FileRecord(other, Kind.SKIPPED, tree=top, private=private)))
        if empty and not unread and not private:
            self.drafts.append(Draft(FileRecord(top, Kind.ABSENT, tree=top)))

    def candidates(self) -> None:
        """Take the files that are open for writing or mapped and in no tree, small ones first."""
        for ident, found in sorted(self.found.files.items(), key=lambda item: item[1].status.st_size):
            if ident not in self.seen:
                self.seen[ident] = found.path
                self._file(found, FileRecord(found.path, Kind.FILE), counted=True)
        for ident, path in self.found.unnamed.items():
            if ident not in self.seen:
                self._problem(path, "is written under a name that it no longer has")

    def written(self, paths: Iterable[str]) -> None:
        """Take what the job has written by name, if it is not open, of whatever kind; what is gone is not there."""
        for path in paths:
            try:
                status = self.sight.lstat(path)
            except PermissionError as error:
                self._skip(path, "", f"cannot be read ({error.strerror})")
                continue
            except OSError:
                continue
            if self.seen.get((status.st_dev, status.st_ino)) != path:
                self._entry(path, status, "", private=False)

    def carry(self, path: str, ident: Ident) -> bool:
        """Count a closed file as taken; false if it is open after all, or taken already."""
        return ident not in self.found.files and self.seen.setdefault(ident, path) == path

    def _entry(self, path: str, status: os.stat_result, tree: str, *, private: bool) -> None:
        kind = kind_of(status)
        if kind is None:
            self._skip(path, tree, "is a device")
            return
        mount = bool(tree) and not private and path in self.mounted.points
        record = FileRecord(path, kind, tree=tree, mount=mount, private=private)
        if kind is Kind.FILE:
            ident = (status.st_dev, status.st_ino)
            first = self.seen.setdefault(ident, path)
            if first != path:
                self.drafts.append(Draft(_described(record, status, (), link=first)))
                return
            open_now = self.found.files.get(ident)
            file = Candidate(path, status, append_only=False, mapped=False)
            if open_now:
                file = replace(open_now, path=path, status=status)
            self._file(file, record, counted=not private)
            return
        target = ""
        try:
            if kind is Kind.SYMLINK:
                target = self.sight.readlink(path)
            xattrs = () if kind is Kind.SYMLINK else self.sight.xattrs(path)
        except OSError as error:
            self._skip(path, tree, f"cannot be read ({error.strerror})")
            return
        self.drafts.append(Draft(_described(record, status, xattrs, target=target)))

    def _file(self, file: Candidate, record: FileRecord, *, counted: bool) -> None:
        """Draft a regular file: unchanged, or opened and taken."""
        status = file.status
        if (status.st_dev, status.st_ino) in self.found.files:
            record = replace(record, opened=(status.st_dev, status.st_ino))
        if file.append_only:
            record = replace(record, append=True)
        known = self.known.get((status.st_dev, status.st_ino))
        if known is not None and not file.mapped and known.still(status):
            record = _described(record, status, known.xattrs, holes=known.holes, how=How.UNCHANGED)
            append_only = file.append_only and known.append_only
            self.drafts.append(
                Draft(record, known.parts, status, trusted=True, append_only=append_only, end=known.end)
            )
            return
        try:
            self._open_and_take(file, record, counted=counted)
        except OSError as error:
            self._inexact(record, status, f"cannot be read ({error.strerror})")
        except CorruptError as error:
            self._inexact(record, status, f"cannot be read ({error.message})")

    def _open_and_take(self, file: Candidate, record: FileRecord, *, counted: bool) -> None:
        with self.sight.open(file) as fd:
            status = os.fstat(fd)
            xattrs = xattrs_of(fd)
            prefix = self.prefixes.get((status.st_dev, status.st_ino))
            taken: Taken | None = None
            if file.append_only and prefix is not None:
                taken = self.taker.tail(fd, status, prefix)
            if taken is None:
                folder = os.path.dirname(self.sight.full(file.path))
                taken = self.taker.whole(fd, status, folder, counted=counted)
            end = end_of(fd, status.st_size) if file.append_only else ""
        if taken is None:
            self._inexact(record, status, "is past the limit for copied files (--journal-limit)")
            return
        self.copied += taken.copied
        trusted = not file.mapped and status.st_dev not in self.mounted.timeless and settled(status)
        record = _described(record, status, xattrs, holes=taken.holes, how=taken.how)
        self.drafts.append(Draft(record, taken.pieces, status, trusted, file.append_only, end))

    def _inexact(self, record: FileRecord, status: os.stat_result, why: str) -> None:
        self._problem(record.path, why)
        self.drafts.append(Draft(_described(record, status, (), exact=False)))

    def _skip(self, path: str, tree: str, why: str) -> None:
        self._problem(path, why)
        self.drafts.append(Draft(FileRecord(path, Kind.SKIPPED, tree=tree)))

    def _problem(self, path: str, why: str) -> None:
        self.problems.append((path, f"{path!r} {why}; a restore of this checkpoint leaves it as it is then"))


def carried(path: str, known: Known) -> Draft:
    """Draft a file that was closed, and not written to since it was read."""
    record = FileRecord(path, Kind.FILE)
    record = _described(record, known.status, known.xattrs, holes=known.holes, how=How.UNCHANGED)
    return Draft(record, known.parts, known.status, known.trusted)


def _described(
    record: FileRecord,
    status: os.stat_result,
    xattrs: tuple[tuple[str, bytes], ...],
    *,
    holes: tuple[tuple[int, int], ...] = (),
    target: str = "",
    link: str = "",
    how: How = How.NONE,
    exact: bool = True,
) -> FileRecord:
    """Return a record with what ``lstat`` and the reading said."""
    return FileRecord(
        path=record.path,
        kind=record.kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=status.st_mtime_ns,
        size=status.st_size if record.kind is Kind.FILE and not link else 0,
        holes=holes,
        xattrs=xattrs,
        target=target,
        link=link,
        tree=record.tree,
        append=record.append,
        mount=record.mount,
        private=record.private,
        how=how,
        exact=exact,
        opened=record.opened,
    )
