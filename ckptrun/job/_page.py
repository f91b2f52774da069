"""The state page: what ckptrun tells the job without being asked. Layout in docs/design/channel.md.

The SDK maps it once and reads it for the price of a copy; ``ckptrun.supervisor`` writes it with `pack`.
"""

from __future__ import annotations

import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap

HOME = "/dev/shm/.ckptrun"  # noqa: S108 - a constant of the capsule, where nobody else is
PATH = HOME + "/state/page"
SIZE = 4096
MAGIC = b"CKPTRUN1"
LAYOUT = struct.Struct("<8sIIQQ64s64s64s256s")
_SEQUENCE = struct.Struct("<I")
_SEQUENCE_AT = len(MAGIC)
NUMBERS_END = struct.Struct("<8sIIQQ").size
BODY_AT = _SEQUENCE_AT + _SEQUENCE.size
"""Where the words begin that the sequence number guards."""
_TRIES = 10000
"""Readings of a page that is being written: a write takes microseconds, unless its writer is stopped."""


class Page:
    """What the page says.

    Args:
        incarnation: of the job in this run, from 1; 0 if there is no page.
        restores: how often the job has been restored since its fresh start.
        committed: sequence number of the newest committed checkpoint; 0 before the first.
        run: unique for each run of ckptrun.
        origin: id of the checkpoint that this incarnation was restored from; empty if it was started fresh.
        newest: id of the newest committed checkpoint; empty before the first.
        lineage: its name.
    """

    __slots__ = ("committed", "incarnation", "lineage", "newest", "origin", "restores", "run")

    def __init__(
        self,
        incarnation: int = 0,
        restores: int = 0,
        committed: int = 0,
        run: str = "",
        origin: str = "",
        newest: str = "",
        lineage: str = "",
    ) -> None:
        self.incarnation = incarnation
        self.restores = restores
        self.committed = committed
        self.run = run
        self.origin = origin
        self.newest = newest
        self.lineage = lineage

    def same_life(self, other: Page) -> bool:
        """Whether no restore lies between the two."""
        return self.incarnation == other.incarnation and self.run == other.run


NOTHING = Page()


def pack(sequence: int, page: Page) -> bytes:
    """Return the bytes of a page."""
    words = (page.run, page.origin, page.newest, page.lineage)
    return LAYOUT.pack(
        MAGIC,
        sequence & 0xFFFFFFFF,
        page.incarnation,
        page.restores,
        page.committed,
        *(word.encode("utf-8", "replace") for word in words),
    )


def unpack(data: bytes) -> Page:
    """Return what the bytes say; `NOTHING` if they are no page."""
    magic, _, incarnation, restores, committed, *words = LAYOUT.unpack(data)
    if magic != MAGIC:
        return NOTHING
    run, origin, newest, lineage = (word.rstrip(b"\0").decode("utf-8", "replace") for word in words)
    return Page(incarnation, restores, committed, run, origin, newest, lineage)


def sequence(data: bytes) -> int:
    """Return the number of a page's newest write, rounded up to that of a whole one."""
    (number,) = _SEQUENCE.unpack_from(data, _SEQUENCE_AT)
    return int(number) + (int(number) & 1)


class Reader:
    """Reads the page; any thread. A forked child goes on with its parent's mapping."""

    def __init__(self, path: str = PATH) -> None:
        self._path = path
        self._map: mmap.mmap | None = None
        self._last = (b"", NOTHING)

    def read(self) -> Page:
        """Return what the page says now; `NOTHING` if there is none."""
        if self._map is None and not self._open():
            return NOTHING
        assert self._map is not None
        known, page = self._last
        if self._map[_SEQUENCE_AT:NUMBERS_END] == known[_SEQUENCE_AT:NUMBERS_END]:
            return page  # every write has a new sequence number, and every restore counts
        data = self._copy()
        if data != known:
            page = unpack(data)
            self._last = (data, page)
        return page

    def _open(self) -> bool:
        import mmap

        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            self._map = mmap.mmap(fd, SIZE, prot=mmap.PROT_READ)
        except (OSError, ValueError):
            return False
        finally:
            os.close(fd)
        return True

    def _copy(self) -> bytes:
        assert self._map is not None
        for _ in range(_TRIES):
            data = self._map[: LAYOUT.size]
            (before,) = _SEQUENCE.unpack_from(data, _SEQUENCE_AT)
            (after,) = _SEQUENCE.unpack_from(self._map, _SEQUENCE_AT)
            if before == after and not before & 1:
                return data
        return self._last[0] or data  # its writer is stopped in the middle: what was true before


READER = Reader()


def read() -> Page:
    """Return what ckptrun says now; `NOTHING` without ckptrun."""
    return READER.read()
