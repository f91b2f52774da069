"""Which chunks the lineage has, and where: what makes an unchanged chunk cost nothing.

An open-addressing table over packed rows, at most some 64 bytes a chunk: one Python object per cell would cost several
times that. Made by `writer` from the newest manifest; used by the worker threads of `writing`.
"""

from __future__ import annotations

import struct
import threading
from array import array
from typing import TYPE_CHECKING, NamedTuple

from ckptrun.store.crypto import ID_SIZE
from ckptrun.store.pack import Location

if TYPE_CHECKING:
    from collections.abc import Iterable

_ROW = struct.Struct(f"<{ID_SIZE}sIIII")
_FIRST_SLOTS = 1 << 10


class Chunked(NamedTuple):
    """A file's content as chunks: bytes in all, and the ids one after the other (`tables.NO_ID`: all zeros)."""

    size: int
    ids: bytes


class ChunkIndex:
    """Chunk id -> location. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows = bytearray()
        self._slots = array("I", bytes(4 * _FIRST_SLOTS))
        self._mask = _FIRST_SLOTS - 1
        self._packs: list[str] = []
        self._numbers: dict[str, int] = {}
        self._distrusted: set[int] = set()
        self.sizes: dict[str, int] = {}
        """Bytes of each pack that is complete."""
        self.files: dict[str, Chunked] = {}
        """The file contents of the checkpoint stored last, by key; replaced, never changed."""

    def __len__(self) -> int:
        return len(self._rows) // _ROW.size

    def pack_number(self, name: str) -> int:
        """Return the number that stands for a pack in locations."""
        with self._lock:
            number = self._numbers.get(name)
            if number is None:
                number = self._numbers[name] = len(self._packs)
                self._packs.append(name)
            return number

    def pack_name(self, number: int) -> str:
        """Return a pack's name."""
        return self._packs[number]

    def distrust(self, names: Iterable[str]) -> None:
        """Never find anything in these packs again."""
        numbers = [self.pack_number(name) for name in names]
        with self._lock:
            self._distrusted.update(numbers)

    def find(self, chunk: bytes) -> Location | None:
        """Return where a chunk lies; None if it is not known, or only in a distrusted pack."""
        with self._lock:
            row = self._slots[self._slot(chunk)]
            if not row:
                return None
            _, pack, offset, stored, raw = _ROW.unpack_from(self._rows, (row - 1) * _ROW.size)
            return None if pack in self._distrusted else Location(pack, offset, stored, raw)

    def add(self, chunk: bytes, location: Location) -> None:
        """Remember where a chunk lies, instead of where it lay."""
        with self._lock:
            slot = self._slot(chunk)
            row = self._slots[slot]
            packed = _ROW.pack(chunk, *location)
            if row:
                self._rows[(row - 1) * _ROW.size : row * _ROW.size] = packed
                return
            self._rows += packed
            self._slots[slot] = len(self)
            if len(self) * 3 > len(self._slots) * 2:
                self._grow()

    def _slot(self, chunk: bytes) -> int:
        slot = int.from_bytes(chunk[:8], "little") & self._mask
        while row := self._slots[slot]:
            at = (row - 1) * _ROW.size
            if self._rows[at : at + ID_SIZE] == chunk:
                break
            slot = (slot + 1) & self._mask
        return slot

    def _grow(self) -> None:
        self._slots = array("I", bytes(8 * len(self._slots)))
        self._mask = len(self._slots) - 1
        for row in range(len(self)):
            at = row * _ROW.size
            self._slots[self._slot(bytes(self._rows[at : at + ID_SIZE]))] = row + 1
