"""Takes the content of one file, cloned or copied, and says what of it is known already.

Called by `Journal` for every regular file of a checkpoint, before the freeze (what stays unchanged) and
inside it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from ckptrun.core.model import Source
from ckptrun.journal.contents import HeldFile, clone, data_runs, holes_of, key_of, read_runs
from ckptrun.journal.record import How, Part

if TYPE_CHECKING:
    from collections.abc import Mapping

Put: TypeAlias = Callable[[Iterable[bytes]], Source]
"""Stores pieces in staging and returns where they lie: readable at once, while the checkpoint lives."""

Piece: TypeAlias = "Part | Source"
"""A run of a file's data: already named, or only captured."""

SETTLED_NS = 1_000_000_000
"""A file's times are trusted if they were this old when it was read: a write right after can carry the
same time (the kernel's clock ticks every 1 to 10 ms, a file server's may be a little off)."""

CLONE_FROM = 1 << 20
"""Bytes from which on a clone is tried: below, copying costs less than the system calls."""

STAGE_UP_TO = 16 << 20
"""Bytes of an append-only prefix that are put into staging; a longer one stays where it is, held open."""

WHOLE_UP_TO = 64 << 10
"""Bytes up to which an append-only file is simply read inside the freeze."""

FULL_PART = 4 << 20
"""A shorter last part of an append-only file is read again with what follows it, so that parts stay few."""

VERIFY_UP_TO = 16 << 20
"""Bytes of a known prefix that are read to see that it is still there."""

_END = 4096
"""Bytes before the end of a prefix by which it is recognised."""


@dataclass(frozen=True, slots=True)
class Known:
    """The content of a file as it was read at one moment.

    Args:
        status: what ``fstat`` said then.
        parts: its data, named.
        holes: its holes.
        xattrs: its extended attributes.
        trusted: times older than `SETTLED_NS`, no mapping, and a filesystem that keeps times: while size,
            times and inode are the same, so is the content.
        append_only: it was being written with O_APPEND only.
        end: what its last bytes hash to (see `end_of`); empty if not append-only.
    """

    status: os.stat_result
    parts: tuple[Part, ...]
    holes: tuple[tuple[int, int], ...] = ()
    xattrs: tuple[tuple[str, bytes], ...] = ()
    trusted: bool = False
    append_only: bool = False
    end: str = ""

    def still(self, status: os.stat_result) -> bool:
        """Say whether the times prove that a file has this content."""
        return self.trusted and unchanged(self.status, status)


@dataclass(frozen=True, slots=True)
class Prefix:
    """The first ``size`` bytes of an append-only file, read before the freeze."""

    size: int
    parts: tuple[Part, ...]
    end: str


@dataclass(frozen=True, slots=True)
class Taken:
    """The content of one file: pieces in order, and how many bytes were copied for it."""

    pieces: tuple[Piece, ...]
    how: How
    holes: tuple[tuple[int, int], ...] = ()
    copied: int = 0


@dataclass(slots=True)
class Taker:
    """Copies and clones, within the limit of one checkpoint.

    Args:
        put: where copied bytes go.
        left: bytes that may still be copied.
        no_clone: devices on which cloning has been found not to work; shared between checkpoints.
    """

    put: Put
    left: int
    no_clone: set[int] = field(default_factory=set)

    def whole(self, fd: int, status: os.stat_result, folder: str, *, counted: bool = True) -> Taken | None:
        """Take a whole file; None if that is past the limit. What ``put`` raises goes through."""
        if not status.st_size:
            return Taken((), How.COPY)
        holes = holes_of(fd, status)
        runs = data_runs(status.st_size, holes)
        size = sum(length for _, length in runs)
        if size >= CLONE_FROM and status.st_dev not in self.no_clone:
            cloned = clone(fd, folder)
            if cloned is not None:
                return Taken((HeldFile(cloned, runs),), How.REFLINK, holes)
            self.no_clone.add(status.st_dev)
        if counted and size > self.left:
            return None
        if counted:
            self.left -= size
        return Taken((self.put(read_runs(fd, runs)),) if size else (), How.COPY, holes, size)

    def tail(self, fd: int, status: os.stat_result, prefix: Prefix) -> Taken | None:
        """Take what was appended to a prefix; None if the prefix is not there any more."""
        if status.st_size < prefix.size or end_of(fd, prefix.size) != prefix.end:
            return None
        length = status.st_size - prefix.size
        pieces: tuple[Piece, ...] = prefix.parts
        if length:
            pieces = (*pieces, self.put(read_runs(fd, [(prefix.size, length)])))
        return Taken(pieces, How.APPEND, copied=length)

    def prefix(
        self, fd: int, size: int, known: Known | None, sources: Mapping[str, Source]
    ) -> tuple[Prefix, dict[str, Source]]:
        """Read the first ``size`` bytes of an append-only file, but for what is known of them.

        Returns:
            The prefix, and the contents that had to be read for it, by key.
        """
        parts = _known_prefix(fd, size, known, sources)
        start = sum(part.size for part in parts)
        read: dict[str, Source] = {}
        if size > start:
            runs = [(start, size - start)]
            if size - start > STAGE_UP_TO:
                key = key_of(read_runs(fd, runs))
                read[key] = HeldFile(os.dup(fd), runs, key)
            else:
                source = self.put(read_runs(fd, runs))
                key = key_of(source.pieces())
                read[key] = source
            parts = (*parts, Part(key, size - start))
        return Prefix(size, parts, end_of(fd, size)), read

    def grown(
        self, fd: int, size: int, known: Known | None, sources: Mapping[str, Source]
    ) -> tuple[tuple[Part, ...], Source | None] | None:
        """Take a closed file that begins with what is known of it: those parts, and the rest; None if it does not.

        The known beginning is read in full: nothing says how the file was opened.
        """
        parts = _known_prefix(fd, size, known, sources, whole=True)
        start = sum(part.size for part in parts)
        if not parts or size - start > self.left:
            return None
        self.left -= size - start
        return parts, self.put(read_runs(fd, [(start, size - start)])) if size > start else None


def _known_prefix(
    fd: int, size: int, known: Known | None, sources: Mapping[str, Source], *, whole: bool = False
) -> tuple[Part, ...]:
    """Return the parts of an earlier checkpoint that still are the beginning of a file.

    Args:
        fd: the file.
        size: its length in bytes.
        known: what is known of it.
        sources: the contents that can be used.
        whole: read all of them, even if it was append-only.
    """
    if known is None or known.holes or known.status.st_size > size:
        return ()
    if known.status.st_size > VERIFY_UP_TO and not (known.append_only or whole):
        return ()
    if known.append_only and end_of(fd, known.status.st_size) != known.end:
        return ()
    kept = list(known.parts)
    while kept and kept[-1].size < FULL_PART:
        kept.pop()
    if any(part.key not in sources for part in kept):
        return ()
    if whole or known.status.st_size <= VERIFY_UP_TO:
        position = 0
        for part in kept:
            if key_of(read_runs(fd, [(position, part.size)])) != part.key:
                return ()
            position += part.size
    return tuple(kept)


def end_of(fd: int, size: int) -> str:
    """Return what the bytes before ``size`` hash to, at most 4 KiB of them."""
    length = min(size, _END)
    return key_of([os.pread(fd, length, size - length)])


def unchanged(before: os.stat_result, now: os.stat_result) -> bool:
    """Say whether size, times and inode are the same."""
    return (
        before.st_size == now.st_size
        and before.st_mtime_ns == now.st_mtime_ns
        and before.st_ctime_ns == now.st_ctime_ns
        and os.path.samestat(before, now)
    )


def settled(status: os.stat_result) -> bool:
    """Say whether a file read from now on was last changed long enough ago for its times to be trusted."""
    return status.st_ctime_ns + SETTLED_NS < time.time_ns()
