"""Chunks back out of packs: neighbours in one read, each one verified. Called by `reading` and `writer`.

Small reads go through a few cached blocks: the many small images of a checkpoint lie side by side, and would cost an
object store one request each.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from ckptrun.errors import CorruptError
from ckptrun.store import codec
from ckptrun.store import pack as packs
from ckptrun.store.crypto import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckptrun.store.backend import Backend
    from ckptrun.store.crypto import Seal
    from ckptrun.store.tables import Row

GAP = 64 << 10
"""Unwanted bytes between two chunks that are read along rather than asked around."""
READ_SIZE = 8 << 20
"""Bytes one read asks for at most."""
BLOCK_SIZE = 256 << 10
BLOCKS = 32


class Fetcher:
    """Reads and verifies chunks of one lineage. Thread-safe.

    Args:
        backend: of the store.
        lineage: its name.
        seal: how it protects its bytes.
    """

    def __init__(self, backend: Backend, lineage: str, seal: Seal) -> None:
        self._backend = backend
        self._lineage = lineage
        self._seal = seal
        self._lock = threading.Lock()
        self._blocks: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    def where(self, pack: str) -> str:
        """Return the address of a pack, for messages."""
        return self._backend.where(self._name(pack))

    def chunk(self, kind: Kind, chunk: bytes, pack: str, location: packs.Location) -> bytes | memoryview:
        """Return the content of one chunk.

        Raises:
            CorruptError: it is not what was stored.
        """
        data = self._range(pack, location.offset, packs.HEADER_SIZE + location.stored)
        return self._open(kind, chunk, pack, location.offset, location.stored, location.raw, memoryview(data))

    def contents(self, rows: Sequence[Row]) -> list[bytes | memoryview]:
        """Return the contents of these rows, in order; CorruptError."""
        found: dict[tuple[str, int], bytes | memoryview] = {}
        for run in _coalesced(rows):
            first, last = run[0], run[-1]
            end = last.offset + packs.HEADER_SIZE + last.stored
            data = memoryview(self._range(first.pack, first.offset, end - first.offset))
            for row in run:
                part = data[row.offset - first.offset :]
                found[row.pack, row.offset] = self._open(
                    Kind.DATA, row.chunk, row.pack, row.offset, row.stored, row.raw, part
                )
        return [found[row.pack, row.offset] if row.pack else bytes(row.raw) for row in rows]

    def _open(
        self, kind: Kind, chunk: bytes, pack: str, offset: int, stored: int, raw: int, data: memoryview
    ) -> bytes | memoryview:
        try:
            return self._verified(kind, chunk, packs.body(data, kind, chunk, stored, raw), raw)
        except CorruptError:
            data = memoryview(self._range_again(pack, offset, packs.HEADER_SIZE + stored))
        try:
            return self._verified(kind, chunk, packs.body(data, kind, chunk, stored, raw), raw)
        except CorruptError as error:
            raise CorruptError(f"{self.where(pack)} is damaged at byte {offset}: {error.message}") from error

    def _verified(self, kind: Kind, chunk: bytes, stored: memoryview, raw: int) -> bytes | memoryview:
        content = codec.expand(self._seal.open_chunk(kind, chunk, stored), raw)
        if self._seal.chunk_id(kind, content) != chunk:
            raise CorruptError("a chunk's content does not match its id")
        return content

    def _range_again(self, pack: str, offset: int, length: int) -> bytes:
        """Read from the store once more: what was damaged on the way is no reason to drop a checkpoint."""
        with self._lock:
            for key in [key for key in self._blocks if key[0] == pack]:
                del self._blocks[key]
        return self._backend.get_range(self._name(pack), offset, length)

    def _range(self, pack: str, offset: int, length: int) -> bytes:
        if length > BLOCK_SIZE // 2:
            return self._backend.get_range(self._name(pack), offset, length)
        first, last = offset // BLOCK_SIZE, (offset + length - 1) // BLOCK_SIZE
        data = b"".join(self._block(pack, number) for number in range(first, last + 1))
        return data[offset - first * BLOCK_SIZE :][:length]

    def _block(self, pack: str, number: int) -> bytes:
        key = (pack, number)
        with self._lock:
            if key in self._blocks:
                self._blocks.move_to_end(key)
                return self._blocks[key]
        data = self._backend.get_range(self._name(pack), number * BLOCK_SIZE, BLOCK_SIZE)
        with self._lock:
            self._blocks[key] = data
            while len(self._blocks) > BLOCKS:
                self._blocks.popitem(last=False)
        return data

    def _name(self, pack: str) -> str:
        return f"{self._lineage}/packs/{pack}"


def _coalesced(rows: Iterable[Row]) -> list[list[Row]]:
    """Return the rows that lie in packs, grouped into runs that one read covers."""
    runs: list[list[Row]] = []
    wanted = {(row.pack, row.offset): row for row in rows if row.pack}
    for key in sorted(wanted):
        row = wanted[key]
        if runs:
            first, last = runs[-1][0], runs[-1][-1]
            gap = row.offset - (last.offset + packs.HEADER_SIZE + last.stored)
            span = row.offset + packs.HEADER_SIZE + row.stored - first.offset
            if row.pack == last.pack and gap <= GAP and span <= READ_SIZE:
                runs[-1].append(row)
                continue
        runs.append([row])
    return runs
