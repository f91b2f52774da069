"""File contents the store has: what need not be read from the job's files again. Made by `Writer.contents`.

A content is read back only where a restore, or a pack that is going, asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ckptrun.errors import CorruptError
from ckptrun.store import tables
from ckptrun.store.chunks import PIECE_SIZE
from ckptrun.store.crypto import ID_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptrun.core.model import Source
    from ckptrun.store.fetching import Fetcher
    from ckptrun.store.index import Chunked, ChunkIndex


class KeptContents(Mapping[str, "Source"]):
    """The file contents of the checkpoint stored last, by key: those whose every chunk can be had.

    Args:
        index: says where chunks lie.
        fetcher: reads them.
    """

    def __init__(self, index: ChunkIndex, fetcher: Fetcher) -> None:
        self._index = index
        self._fetcher = fetcher
        self._files = index.files
        self._whole: dict[str, bool] = {}

    def __getitem__(self, key: str) -> Source:
        if key not in self:
            raise KeyError(key)
        return KeptSource(key, self._files[key], self._index, self._fetcher)

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, str) or key not in self._files:
            return False
        if key not in self._whole:
            self._whole[key] = all(
                chunk == tables.NO_ID or self._index.find(chunk) is not None
                for chunk in _chunks(self._files[key])
            )
        return self._whole[key]

    def __iter__(self) -> Iterator[str]:
        return (key for key in self._files if key in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class KeptSource:
    """The bytes of one content; see `Source`. CorruptError or another StoreError while being read.

    Args:
        key: of the content.
        content: its chunks.
        index: says where they lie.
        fetcher: reads them.
    """

    def __init__(self, key: str, content: Chunked, index: ChunkIndex, fetcher: Fetcher) -> None:
        self._key = key
        self._content = content
        self._index = index
        self._fetcher = fetcher

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._content.size

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes; see `Source.read`."""
        if not length:
            return b""
        first, last = offset // PIECE_SIZE, (offset + length - 1) // PIECE_SIZE
        data = b"".join(self._piece(number) for number in range(first, last + 1))
        return data[offset - first * PIECE_SIZE :][:length]

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Yield the whole content in order."""
        for number in range(-(-self.size // PIECE_SIZE)):
            yield self._piece(number)

    def _piece(self, number: int) -> bytes | memoryview:
        chunk = self._content.ids[number * ID_SIZE : (number + 1) * ID_SIZE]
        raw = min(PIECE_SIZE, self.size - number * PIECE_SIZE)
        if chunk == tables.NO_ID:
            return bytes(raw)
        location = self._index.find(chunk)
        if location is None:
            raise CorruptError(f"content {self._key} lies in a pack that was found damaged")
        name = self._index.pack_name(location.pack)
        row = tables.Row(number, 0, chunk, name, location.offset, location.stored, location.raw)
        return self._fetcher.contents([row])[0]


def _chunks(content: Chunked) -> Iterator[bytes]:
    return (content.ids[at : at + ID_SIZE] for at in range(0, len(content.ids), ID_SIZE))
