"""Puts device and inode of replaced files right where a job's memory holds them, on the way to a restore.

A library that remembers an open file keeps both numbers side by side, as ``struct stat`` has them: 16 bytes that occur
by chance nowhere. Only the numbers of files named by the journal are touched (`ckptrun.journal.identities` says why).
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptrun.core.model import Source

Ident: TypeAlias = "tuple[int, int]"
"""Device and inode."""
_PAGES = re.compile(r"pages-\d+\.img")
_WORDS = struct.Struct("=QQ")
_SPLIT = _WORDS.size - 1
"""Bytes of a pair that can lie on one side of a cut."""


def renamed(images: Mapping[str, Source], moved: Mapping[Ident, Ident]) -> dict[str, Source]:
    """Return images whose memory knows files by their new numbers.

    Args:
        images: as they were dumped.
        moved: device and inode then -> now.
    """
    if not moved:
        return dict(images)
    words = {_WORDS.pack(*then): _WORDS.pack(*now) for then, now in moved.items()}
    return {
        name: _Renamed(source, words) if _PAGES.fullmatch(name) else source for name, source in images.items()
    }


class _Renamed:
    """A `Source` of memory pages in which some pairs of words are others.

    Args:
        source: as dumped.
        words: the pairs then -> now.
    """

    def __init__(self, source: Source, words: Mapping[bytes, bytes]) -> None:
        self._source = source
        self._words = words
        self._pattern = re.compile(b"|".join(map(re.escape, words)), re.DOTALL)

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._source.size

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """Return exactly ``length`` bytes from ``offset``."""
        start, end = max(offset - _SPLIT, 0), min(offset + length + _SPLIT, self.size)
        data = self._changed(bytes(self._source.read(start, end - start)))
        return data[offset - start : offset - start + length]

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Yield the whole content; the end of a piece comes with the next one, as a pair may be cut in two."""
        held = b""
        for piece in self._source.pieces():
            data = self._changed(held + bytes(piece))
            held = data[-_SPLIT:]
            yield data[:-_SPLIT]
        yield held

    def _changed(self, data: bytes) -> bytes:
        if not any(
            then in data for then in self._words
        ):  # many times as fast as the pattern, and true of most
            return data
        return self._pattern.sub(lambda found: self._words[found[0]], data)
