"""Fills packs and uploads them while the next one fills. Called by `writing`, from one thread."""

from __future__ import annotations

import mmap
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ckptrun.errors import PreconditionError, StoreError
from ckptrun.store import pack as packs
from ckptrun.store.background import lower_priority

if TYPE_CHECKING:
    from concurrent.futures import Future

    from ckptrun.store.backend import Backend
    from ckptrun.store.crypto import Kind
    from ckptrun.store.index import ChunkIndex


_PIECES = 3
_LARGEST = 2 << 20
"""Bytes that one record takes at most, with room to spare: a chunk of 1 MiB."""


class PackNames:
    """Names never used before: the writer's epoch and session, and a count."""

    def __init__(self, epoch: int, session: str) -> None:
        self._stem = f"{epoch}-{session}"
        self._count = 0

    def next(self) -> str:
        """Return another name."""
        self._count += 1
        return f"{self._stem}-{self._count}"


class Packer:
    """The packs of one checkpoint. In memory are at most the one that is uploaded and half of the next one.

    A pack is filled in pieces of half its size, three of which are used in turn: fresh memory costs more than the copy.

    Args:
        backend: of the store.
        lineage: its name.
        names: for packs.
        index: learns where chunks lie, before the pack is up: `abandon` takes that back.
        pack_size: bytes after which a pack is closed.
    """

    def __init__(
        self,
        backend: Backend,
        lineage: str,
        names: PackNames,
        index: ChunkIndex,
        pack_size: int = packs.PACK_SIZE,
    ) -> None:
        self._backend = backend
        self._lineage = lineage
        self._names = names
        self._index = index
        self._pack_size = pack_size
        self._piece_size = (pack_size + 1) // 2
        # Anonymous maps, since untouched they cost nothing.
        self._free = [mmap.mmap(-1, self._piece_size + _LARGEST) for _ in range(_PIECES)]
        self._full: list[tuple[mmap.mmap, int]] = []
        self._used = 0
        self._size = 0
        self._name = ""
        self._started: list[str] = []
        self._uploads = ThreadPoolExecutor(1, "pack-upload", initializer=lower_priority)
        self._pending: Future[list[mmap.mmap]] | None = None
        self.stored = 0
        """Bytes of all packs so far."""

    def add(self, kind: Kind, chunk: bytes, stored: bytes | memoryview, raw: int) -> packs.Location:
        """Append a chunk and return where it lies; StoreError of an upload before."""
        if not self._size:
            self._name = self._names.next()
            self._started.append(self._name)
            self._append(packs.MAGIC)
        location = packs.Location(self._index.pack_number(self._name), self._size, len(stored), raw)
        self._append(packs.header(kind, chunk, len(stored), raw))
        self._append(stored)
        self._index.add(chunk, location)
        if self._size >= self._pack_size:
            self._flush()
        elif self._used >= self._piece_size:
            self._turn()
        return location

    def finish(self) -> None:
        """Return when every pack is durable; StoreError."""
        self._flush()
        self._wait()
        self._uploads.shutdown()
        self._free = []

    def abandon(self) -> None:
        """Forget what is not durable; chunks in it count as unknown again."""
        self._uploads.shutdown(wait=True, cancel_futures=True)
        self._free = []
        self._index.distrust(name for name in self._started if name not in self._index.sizes)

    def _append(self, data: bytes | memoryview) -> None:
        end = self._used + len(data)
        self._free[0][self._used : end] = data
        self._size += len(data)
        self._used = end

    def _turn(self) -> None:
        """Go on in another piece."""
        if self._used:
            self._full.append((self._free.pop(0), self._used))
            self._used = 0
        if not self._free:
            self._wait()

    def _flush(self) -> None:
        if not self._size:
            return
        self._wait()
        self._turn()
        self._pending = self._uploads.submit(self._upload, self._name, self._full)
        self.stored += self._size
        self._full, self._size = [], 0

    def _wait(self) -> None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._free += pending.result()

    def _upload(self, name: str, full: list[tuple[mmap.mmap, int]]) -> list[mmap.mmap]:
        put_once(
            self._backend, f"{self._lineage}/packs/{name}", *(memoryview(map_)[:used] for map_, used in full)
        )
        self._index.sizes[name] = sum(used for _, used in full)
        return [map_ for map_, _ in full]


def put_once(backend: Backend, name: str, *pieces: bytes | memoryview) -> None:
    """Create an object whose name is ours alone; that it exists already is our own lost answer, or an error.

    Raises:
        StoreError: it cannot be written, or someone else used its name.
    """
    try:
        backend.put_if_absent(name, *pieces)
    except PreconditionError as error:
        if backend.get(name) != b"".join(pieces):
            raise StoreError(
                f"{backend.where(name)} exists with other content",
                hint="another writer uses the same session name",
            ) from error
