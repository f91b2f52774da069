"""Which files the job may be writing right now: open for writing, or mapped shared and writable.

Called by the capture, before and inside the freeze; reads /proc only. What the job wrote and has closed again
is not seen here.
"""

# Names are strings with surrogates here, next to descriptors and raw calls; Path would add nothing.
# ruff: noqa: PTH115, PTH116, PTH123, PTH208

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

Ident: TypeAlias = "tuple[int, int]"
"""Device and inode: what a file is, whatever its names."""

_SHARED = re.compile(rb"^([0-9a-f]+-[0-9a-f]+) ..[-x]s \S+ \S+ \d+ +/", re.MULTILINE)
"""A shared mapping of a file in /proc/PID/maps: its address range. The name there is ambiguous."""

_FLAGS = re.compile(rb"^flags:\s*([0-7]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A regular file that the job can be writing.

    Args:
        path: its name in the job's mount namespace.
        status: what ``stat`` said.
        append_only: every writable descriptor has O_APPEND, and there is no mapping.
        mapped: somebody has it mapped shared with the right to write.
        held: it is proven to be the very file that the job has open or mapped for writing.
    """

    path: str
    status: os.stat_result
    append_only: bool
    mapped: bool
    held: bool = False


@dataclass(frozen=True, slots=True)
class CandidateSet:
    """What a scan found.

    Args:
        files: the candidates.
        unnamed: files that are written under a name which they no longer have, though they have another.
        problems: a sentence for each process that could not be looked at.
    """

    files: dict[Ident, Candidate] = field(default_factory=dict)
    unnamed: dict[Ident, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def root_of(pids: Sequence[int]) -> str:
    """Return where the job's mount namespace is seen: the root of the first process still there."""
    for pid in pids:
        if os.path.lexists(f"/proc/{pid}/root"):
            return f"/proc/{pid}/root"
    return f"/proc/{pids[0]}/root" if pids else "/"


def under(path: str, folders: Sequence[str]) -> bool:
    """Say whether a path is one of the folders or lies in one."""
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


def scan(pids: Sequence[int], root: str, ignore: Sequence[str]) -> CandidateSet:
    """Return the candidates among the files of the processes; those that have ended are passed over."""
    found = _Scan(root, ignore)
    for pid in pids:
        try:
            found.descriptors(pid)
            found.mappings(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
        except PermissionError as error:
            if not _is_zombie(pid):
                found.result.problems.append(
                    f"the open files of process {pid} cannot be read: {error.strerror}"
                )
    return found.result


class _Scan:
    """One pass over the processes: a few system calls for each descriptor, one ``stat`` for each file."""

    def __init__(self, root: str, ignore: Sequence[str]) -> None:
        self.result = CandidateSet()
        self._root = "" if root == "/" else root
        self._ignore = ("/proc", "/sys", *ignore)
        self._names: dict[str, os.stat_result | None] = {}

    def descriptors(self, pid: int) -> None:
        """Add the files that a process has open for writing."""
        folder = f"/proc/{pid}/fd"
        for number in os.listdir(folder):
            link = f"{folder}/{number}"
            try:
                path = os.readlink(link)
                if path[:1] != "/" or self._ignored(path) or not os.lstat(link).st_mode & stat.S_IWUSR:
                    continue
                with open(f"/proc/{pid}/fdinfo/{number}", "rb", buffering=0) as info:
                    flags = _FLAGS.search(info.read())
                append = flags is not None and bool(int(flags[1], 8) & os.O_APPEND)
                self._add(path, link, append=append, mapped=False)
            except FileNotFoundError:
                continue

    def mappings(self, pid: int) -> None:
        """Add the files that a process has mapped shared and may write through the mapping.

        The link in map_files has the writing permission if the file was opened for writing: a mapping that is
        read-only now may have been writable a moment ago.
        """
        with open(f"/proc/{pid}/maps", "rb", buffering=0) as file:
            maps = b"".join(iter(lambda: file.read(1 << 20), b""))
        for area in _SHARED.findall(maps):
            link = f"/proc/{pid}/map_files/{os.fsdecode(area)}"
            try:
                if not os.lstat(link).st_mode & stat.S_IWUSR:
                    continue
                path = os.readlink(link)
            except FileNotFoundError:
                continue
            if not self._ignored(path):
                self._add(path, link, append=False, mapped=True)

    def _ignored(self, path: str) -> bool:
        if path.startswith("/dev/") and not path.startswith("/dev/shm/"):  # noqa: S108
            return True
        return under(path, self._ignore)

    def _add(self, path: str, link: str, *, append: bool, mapped: bool) -> None:
        status, held = self._named(path, link)
        if status is None:
            return
        ident = (status.st_dev, status.st_ino)
        known = self.result.files.get(ident)
        if known is None:
            self.result.files[ident] = Candidate(path, status, append and not mapped, mapped, held)
        elif known.mapped < mapped or known.append_only > append or known.held < held:
            both = known.append_only and append and not mapped
            self.result.files[ident] = replace(
                known, append_only=both, mapped=known.mapped or mapped, held=known.held or held
            )

    def _named(self, path: str, link: str) -> tuple[os.stat_result | None, bool]:
        """Return the status of a regular file behind a link of /proc if it still has this name; and if that is sure."""
        try:
            behind: os.stat_result | None = os.stat(link)
        except PermissionError:  # map_files needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE; the name must do
            behind = None
        if behind is not None and (not stat.S_ISREG(behind.st_mode) or not behind.st_nlink):
            return None, False
        if path not in self._names:
            self._names[path] = _lstat(self._root + path)
        named = self._names[path]
        if behind is None:
            return (named if named is not None and stat.S_ISREG(named.st_mode) else None), False
        if named is not None and os.path.samestat(named, behind):
            return named, True
        self.result.unnamed[behind.st_dev, behind.st_ino] = path.removesuffix(" (deleted)")
        return None, False


def _lstat(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:
        return None


def _is_zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in {b"Z", b"X"}
    except (OSError, IndexError):
        return True
