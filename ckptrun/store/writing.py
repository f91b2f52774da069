"""A snapshot into packs and a manifest: cut, hash, leave out what is known, compress, encrypt, pack.

Two worker threads do the work on bytes (the libraries release the interpreter lock), this one puts the results in
order, and a fourth uploads. Called by `writer`, one snapshot at a time.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakMethod

from ckptrun.store import chunks, codec, tables
from ckptrun.store.background import lower_priority
from ckptrun.store.contenttables import ContentTables
from ckptrun.store.crypto import ID_SIZE, Kind
from ckptrun.store.index import Chunked
from ckptrun.store.manifest import Content, Manifest, PageRef
from ckptrun.store.packing import Packer, put_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from ckptrun.core.model import CheckpointRecord, FileContent, MemoryRuns, Snapshot, Source
    from ckptrun.store.backend import Backend
    from ckptrun.store.crypto import Seal
    from ckptrun.store.index import ChunkIndex

WORKERS = 2
BATCH_BYTES = 4 << 20
BATCHES_AHEAD = 3


class Input(NamedTuple):
    """A stream or file to be stored; ``known`` if the store has had its bytes before."""

    name: str
    data: Source
    memory: MemoryRuns | None
    known: Chunked | None = None


class Item(NamedTuple):
    """One chunk to be worked on: which input, where in its bytes, the cut, and its id if that is known."""

    number: int
    offset: int
    cut: chunks.Cut
    known: bytes | None


class Done(NamedTuple):
    """What became of an item: its id, and what to store; None if that is known already or all zeros."""

    item: Item
    chunk: bytes
    stored: bytes | memoryview | None


@dataclass(slots=True)
class Written:
    """A stored snapshot: the manifest's data and name, the packs it refers to, the bytes that it cost."""

    manifest: Manifest
    name: str


def manifest_name(lineage: str, record: CheckpointRecord) -> str:
    """Return the name of a checkpoint's manifest."""
    return f"{lineage}/manifests/{record.seq:08d}-{record.id}"


class Writing:
    """One snapshot on its way into the store.

    Args:
        backend: of the store.
        lineage: its name.
        seal: how it protects its bytes.
        index: the chunks it has.
        packer: takes the others.
        snapshot: what is stored.
        progress: is told bytes done and bytes in all.
    """

    def __init__(
        self,
        backend: Backend,
        lineage: str,
        seal: Seal,
        index: ChunkIndex,
        packer: Packer,
        snapshot: Snapshot,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._backend = backend
        self._lineage = lineage
        self._seal = seal
        self._index = index
        self._packer = packer
        self._snapshot = snapshot
        self._progress = progress
        self._inputs = [
            *(Input(s.name, s.data, s.memory) for s in snapshot.streams),
            *(Input(f.key, f.data, None, self._known(f)) for f in snapshot.files),
        ]
        self._ids = [bytearray() for _ in self._inputs]
        self._tables = ContentTables(WeakMethod(self._store_page), len(self._inputs))
        self._packs: dict[int, int] = {}
        self._zero_ids: dict[int, bytes] = {}
        self._new_bytes = 0

    def run(self, record: CheckpointRecord) -> Written:
        """Store everything, the manifest last; return it with the record completed.

        Raises:
            StoreError: it could not be stored.
        """
        started = time.monotonic()
        total = sum(i.data.size for i in self._inputs)
        done = 0
        for batch in self._results():
            for result in batch:
                self._place(result)
                done += result.item.cut.length
            if self._progress:
                self._progress(done, total)
        refs, inline, contents = self._tables.finish()
        self._packer.finish()
        streams = len(self._snapshot.streams)
        self._index.files = {
            source.name: Chunked(source.data.size, bytes(self._ids[number]))
            for number, source in enumerate(self._inputs)
            if number >= streams
        }
        manifest = Manifest(
            replace(
                record,
                new_bytes=self._new_bytes,
                memory_bytes=sum(i.data.size for i in self._inputs if i.memory is not None),
                files=len(self._snapshot.files),
            ),
            tuple(self._content(i, contents[i]) for i in range(streams)),
            tuple(self._content(i, contents[i]) for i in range(streams, len(self._inputs))),
            self._snapshot.facts,
            tuple((name, self._index.sizes[name]) for name in map(self._index.pack_name, self._packs)),
            refs,
            inline,
        )
        name = manifest_name(self._lineage, record)
        data = self._seal.seal(Kind.MANIFEST, name, manifest.encode())
        put_once(self._backend, name, data)
        seconds, stored = time.monotonic() - started, self._packer.stored + len(data)
        return Written(
            replace(manifest, record=replace(manifest.record, upload_seconds=seconds, stored_bytes=stored)),
            name,
        )

    def _known(self, file: FileContent) -> Chunked | None:
        known = self._index.files.get(file.key) if file.fixed else None
        return known if known and known.size == file.data.size else None

    def _content(self, number: int, extent: tuple[int, int]) -> Content:
        source = self._inputs[number]
        memory = source.memory if chunks.on_grid(source.memory, source.data.size) else None
        return Content(source.name, source.data.size, memory.space if memory else None, *extent)

    def _results(self) -> Iterator[list[Done]]:
        """Yield the worked-on batches in order, a few ahead being worked on."""
        pending: deque[Future[list[Done]]] = deque()
        with ThreadPoolExecutor(WORKERS, "pack-work", initializer=lower_priority) as pool:
            try:
                for batch in self._batches():
                    pending.append(pool.submit(self._work, batch))
                    if len(pending) > BATCHES_AHEAD:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()

    def _batches(self) -> Iterator[list[Item]]:
        batch: list[Item] = []
        size = 0
        for number, source in enumerate(self._inputs):
            offset = 0
            for cut in chunks.cut(source.memory, source.data.size):
                at = cut.cell * ID_SIZE
                known = source.known.ids[at : at + ID_SIZE] if source.known else None
                batch.append(Item(number, offset, cut, known))
                offset += cut.length
                size += cut.length
                if size >= BATCH_BYTES:
                    yield batch
                    batch, size = [], 0
        if batch:
            yield batch

    def _work(self, batch: Sequence[Item]) -> list[Done]:
        return [self._work_one(item) for item in batch]

    def _work_one(self, item: Item) -> Done:
        if item.known is not None and (
            item.known == tables.NO_ID or self._index.find(item.known) is not None
        ):
            return Done(item, item.known, None)
        source = self._inputs[item.number].data
        raw = source.read(item.offset, item.cut.length)
        chunk = self._seal.chunk_id(Kind.DATA, raw)
        if chunk == self._zero_id(item.cut.length):
            return Done(item, tables.NO_ID, None)
        if self._index.find(chunk) is not None:
            return Done(item, chunk, None)
        return Done(item, chunk, self._seal.seal_chunk(Kind.DATA, chunk, codec.compress(raw)))

    def _zero_id(self, length: int) -> bytes:
        found = self._zero_ids.get(length)
        if found is None:
            found = self._zero_ids[length] = self._seal.chunk_id(Kind.DATA, bytes(length))
        return found

    def _place(self, done: Done) -> None:
        builder = self._tables.builder(done.item.number, done.item.cut.cell)
        if done.item.number >= len(self._snapshot.streams):
            self._ids[done.item.number] += done.chunk
        if done.chunk == tables.NO_ID:
            builder.add_zero(done.item.cut)
            return
        location = self._index.find(done.chunk)
        if location is None:
            stored = done.stored
            if stored is None:  # it was known a moment ago: its pack has become a tombstone meanwhile
                again = self._work_one(done.item)
                assert again.stored is not None
                stored = again.stored
            location = self._packer.add(Kind.DATA, done.chunk, stored, done.item.cut.length)
            self._new_bytes += done.item.cut.length
        self._refer(location.pack)
        builder.add(done.item.cut, done.chunk, self._index.pack_name(location.pack), location)

    def _store_page(self, page: bytes, content: int) -> PageRef:
        chunk = self._seal.chunk_id(Kind.TABLE, page)
        location = self._index.find(chunk)
        if location is None:
            stored = self._seal.seal_chunk(Kind.TABLE, chunk, codec.compress(page))
            location = self._packer.add(Kind.TABLE, chunk, stored, len(page))
        return PageRef(
            chunk, self._refer(location.pack), location.offset, location.stored, len(page), content
        )

    def _refer(self, pack: int) -> int:
        """Return the manifest's own number for a pack."""
        return self._packs.setdefault(pack, len(self._packs))
