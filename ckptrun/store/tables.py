"""Cell tables: which chunk holds which cell of a stream, in pages that are stored as chunks themselves.

A page covers 1024 neighbouring cells of the grid and says where each chunk lies, packs by name: it depends on nothing
but these cells, so that an unchanged stretch of memory gives the very same page, and costs nothing.

Called by `writing`, `manifest` and `reading`. Pure.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from ckptrun.errors import CorruptError
from ckptrun.store.crypto import ID_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptrun.store.chunks import Cut
    from ckptrun.store.pack import Location

CELLS_PER_PAGE = 1024
ZERO = 0xFFFF
"""Stands for a pack: all bytes are zero and lie nowhere."""
_HEAD = struct.Struct("<4sHH")
_MAGIC = b"CELL"
_ROW = struct.Struct(f"<QH{ID_SIZE}sHIII")
NO_ID = bytes(ID_SIZE)


class Row(NamedTuple):
    """One chunk of a stream.

    Args:
        cell: its number on the grid, or the piece's.
        bitmap: the pages present; 0 for a piece.
        chunk: its id.
        pack: name of the pack; "" for all zeros.
        offset: of its record in the pack, bytes.
        stored: bytes behind the record's header.
        raw: bytes of content.
    """

    cell: int
    bitmap: int
    chunk: bytes
    pack: str
    offset: int
    stored: int
    raw: int


class PageBuilder:
    """Collects the rows of one page, in the order of the stream's bytes."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.rows = 0
        self.content = 0
        """Bytes of the stream that the page covers."""
        self._packs: dict[str, int] = {}
        self._data = bytearray()

    def add_zero(self, cut: Cut) -> None:
        """Add a chunk of nothing but zeros."""
        self._add(cut, NO_ID, ZERO, 0, 0)

    def add(self, cut: Cut, chunk: bytes, pack: str, location: Location) -> None:
        """Add a chunk that lies in a pack."""
        number = self._packs.setdefault(pack, len(self._packs))
        self._add(cut, chunk, number, location.offset, location.stored)

    def _add(self, cut: Cut, chunk: bytes, pack: int, offset: int, stored: int) -> None:
        self._data += _ROW.pack(cut.cell, cut.bitmap, chunk, pack, offset, stored, cut.length)
        self.rows += 1
        self.content += cut.length

    def encode(self) -> bytes:
        """Return the page."""
        names = "\n".join(self._packs).encode("ascii")
        return _HEAD.pack(_MAGIC, self.rows, len(names)) + names + self._data


def rows(page: bytes | memoryview) -> Iterator[Row]:
    """Yield the rows of a page.

    Raises:
        CorruptError: it is none.
    """
    try:
        packs, data = _parts(page)
        for cell, bitmap, chunk, pack, offset, stored, raw in _ROW.iter_unpack(data):
            yield Row(cell, bitmap, chunk, "" if pack == ZERO else packs[pack], offset, stored, raw)
    except (struct.error, ValueError, IndexError) as error:
        raise CorruptError(f"a cell table's page does not parse: {error}") from error


def _parts(page: bytes | memoryview) -> tuple[list[str], memoryview]:
    """Return the names of packs, and the packed rows."""
    magic, count, length = _HEAD.unpack_from(page)
    packs = bytes(page[_HEAD.size : _HEAD.size + length]).decode("ascii").split("\n")
    data = memoryview(page)[_HEAD.size + length :]
    if magic != _MAGIC or len(data) != count * _ROW.size:
        raise ValueError("wrong size")
    return packs, data
