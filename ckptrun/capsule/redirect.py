"""A regular file that output is redirected to: where it ended at a freeze, whose bytes follow, and how it is cut back.

Used by `output` and `streams`. Others may append to the same file, ckptrun's own messages among them. What they wrote
after the freeze stays; what the job wrote goes, since it is about to write it again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

TAIL = 4096
"""Bytes before a mark by which the same content is known again."""
_PIECE = 1 << 20
_TWICE = "lines after the checkpoint may be there twice"
RUNS_LIMIT = 1 << 16
"""Runs of own bytes remembered: one, unless others write in between."""


@dataclass(frozen=True, slots=True)
class FileMark:
    """A place in a regular file: its path and identity, an offset in bytes, and a digest of what lies just before."""

    path: str
    device: int
    inode: int
    at: int
    tail: str = ""


class Redirect:
    """One such file, whichever streams go there.

    Args:
        fd: as this process was given it.
        say: told, in one sentence, what the user should know.
    """

    def __init__(self, fd: int, say: Callable[[str], None]) -> None:
        self._fd = fd
        self._say = say
        self._lock = threading.Lock()
        self._appending = bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND)
        self._editor = _reopened(fd, os.O_RDWR)
        self._reader = self._editor if self._editor >= 0 else _reopened(fd, os.O_RDONLY)
        self._writer = _reopened(fd, os.O_WRONLY | os.O_APPEND) if self._appending else -1
        self._own: list[tuple[int, int]] = []
        self._known_from = os.fstat(fd).st_size

    def write(self, fd: int, data: memoryview) -> int:
        """Write like `os.write`, and remember where it went.

        An append goes by a descriptor of ours alone: with one that we share, the offset afterwards may be another's.
        """
        with self._lock:
            if not self._appending:
                before = os.lseek(fd, 0, os.SEEK_CUR)
                count = os.write(fd, data)
                after = os.lseek(fd, 0, os.SEEK_CUR)
                start = (
                    before if after - before == count else self._search(before, after, bytes(data[:count]))
                )
            elif self._writer < 0:
                count, start = os.write(fd, data), None
            else:
                count = os.write(self._writer, data)
                start = os.lseek(self._writer, 0, os.SEEK_CUR) - count
            self._note(start, count)
            return count

    def mark(self, fd: int) -> FileMark:
        """Return where the output of a stream ends now."""
        status = os.fstat(fd)
        at = status.st_size if self._appending else os.lseek(fd, 0, os.SEEK_CUR)
        return FileMark(self._path(), status.st_dev, status.st_ino, at, self._digest(at))

    def go_back(self, mark: FileMark, keep: Callable[[str, int], object]) -> int:
        """Take out what the job has written since `mark`, if this still is the file; return how many bytes went.

        Args:
            mark: of the checkpoint.
            keep: keeps what the file of a path holds past a size; OSError if it cannot.
        """
        with self._lock:
            size = os.fstat(self._fd).st_size
            if not self._same(mark, size):
                return 0
            if size <= mark.at:
                self._seek(size)
                return 0
            if not self._kept(mark, size, keep):
                return 0
            gone = self._take_out(mark.at)
            self._own = [(start, min(end, mark.at)) for start, end in self._own if start < mark.at]
            self._known_from = min(self._known_from, mark.at)
            return gone

    def _same(self, mark: FileMark, size: int) -> bool:
        """Whether this is the marked file and holds what it held up to the mark; says so if only its name is."""
        status = os.fstat(self._fd)
        is_it = (status.st_dev, status.st_ino) == (mark.device, mark.inode)
        if not is_it and self._path() != mark.path:
            return False
        if size < mark.at:
            self._say(
                f"{mark.path} is {mark.at - size} bytes shorter than at the checkpoint: that much of the earlier "
                "output is not in it (a shell's '>' empties a file, '>>' keeps it)"
            )
            return is_it
        digest = self._digest(mark.at)
        told = bool(digest and mark.tail)
        if told and digest != mark.tail:
            self._say(
                f"{mark.path} does not hold what it held at the checkpoint and stays as it is: {_TWICE}"
            )
            return False
        # moved to another machine, or put back from a copy: the content is the file
        return is_it or (told and mark.at > 0)

    def _kept(self, mark: FileMark, size: int, keep: Callable[[str, int], object]) -> bool:
        """Keep what goes, if the file has a name; false if neither that is possible nor nothing of others' is in it."""
        path = self._path()
        named = False
        with contextlib.suppress(OSError):
            named = os.path.samestat(Path(path).stat(), os.fstat(self._fd))
        try:
            if named:
                keep(path, mark.at)
            readable = self._editor >= 0
        except OSError:
            readable = False
        if readable or not self._gaps(mark.at, size):
            return True
        self._say(f"{path} cannot be read by ckptrun and stays as it is: {_TWICE}")
        return False

    def _take_out(self, start: int) -> int:
        """Remove the job's bytes from `start` on; return how many.

        What others wrote is moved down in place until nothing has come since the last look. What is appended between
        that look and the cut is lost: nothing else lies between the two.
        """
        done = end = start
        while (size := os.fstat(self._fd).st_size) > done:
            for first, last in self._gaps(done, size):
                end = self._move(first, last, end)
            done = size
        os.ftruncate(self._fd, end)
        self._seek(end)
        return done - end

    def _move(self, first: int, last: int, to: int) -> int:
        """Copy a run of the file down; return where the copy ends."""
        while first < last and (piece := os.pread(self._editor, min(last - first, _PIECE), first)):
            os.pwrite(self._editor, piece, to)
            first += len(piece)
            to += len(piece)
        return to

    def _gaps(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return what others have written from `start` on.

        Of what was written before this process began, nobody knows whose it is: the job's, most likely.
        """
        gaps = []
        at = max(start, self._known_from)
        for first, last in self._own:
            if last > at:
                if first > at:
                    gaps.append((at, first))
                at = last
        if at < end:
            gaps.append((at, end))
        return gaps

    def _note(self, start: int | None, count: int) -> None:
        """Remember own bytes; when their place is not known, or it is not at the end, everything so far is unknown."""
        if start is None or (self._own and start < self._own[-1][1]) or len(self._own) > RUNS_LIMIT:
            self._own.clear()
            self._known_from = os.fstat(self._fd).st_size
        elif self._own and self._own[-1][1] == start:
            self._own[-1] = (self._own[-1][0], start + count)
        else:
            self._own.append((start, start + count))

    def _search(self, start: int, end: int, data: bytes) -> int | None:
        """Return where `data` lies when somebody else who shares the descriptor wrote at the same time."""
        found = self._read(start, end).find(data)
        return None if found < 0 else start + found

    def _read(self, start: int, end: int) -> bytes:
        parts = []
        while start < end and self._reader >= 0 and (part := os.pread(self._reader, end - start, start)):
            parts.append(part)
            start += len(part)
        return b"".join(parts)

    def _digest(self, at: int) -> str:
        """Return a digest of the last bytes before `at`; empty if they cannot be read."""
        if self._reader < 0:
            return ""
        try:
            return hashlib.blake2b(self._read(max(at - TAIL, 0), at), digest_size=16).hexdigest()
        except OSError:
            return ""

    def _seek(self, at: int) -> None:
        if not self._appending:
            os.lseek(self._fd, at, os.SEEK_SET)

    def _path(self) -> str:
        return str(Path(f"/proc/self/fd/{self._fd}").readlink())


def _reopened(fd: int, flags: int) -> int:
    """Return a descriptor of our own for the same file; -1 if that is not permitted."""
    try:
        return os.open(f"/proc/self/fd/{fd}", flags)
    except OSError:
        return -1
