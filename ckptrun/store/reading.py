"""A committed checkpoint as it is read back. Made by `Lineage.load`; called by the supervisor for a restore.

Every chunk is verified as it is read. It must not know what the bytes mean.
"""

from __future__ import annotations

import bisect
import itertools
from array import array
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptrun.core.model import FileContent, ImageStream, MemoryRuns
from ckptrun.store import chunks, tables
from ckptrun.store.crypto import Kind
from ckptrun.store.manifest import INLINE
from ckptrun.store.pack import Location

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from concurrent.futures import Future

    from ckptrun.core.model import CheckpointRecord, Json
    from ckptrun.store.fetching import Fetcher
    from ckptrun.store.manifest import Content, Manifest, PageRef

WINDOW_BYTES = 4 << 20
"""Content of one piece that is read ahead, and handed out."""
WINDOWS_AHEAD = 4
THREADS = 3


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A checkpoint in the store; its sources raise CorruptError or another StoreError while being read.

    The streams' ``memory`` is None: `memory_runs` reads it from the cell tables.
    """

    record: CheckpointRecord
    streams: tuple[ImageStream, ...]
    files: tuple[FileContent, ...]
    facts: Mapping[str, Json]
    manifest: Manifest
    fetcher: Fetcher

    @classmethod
    def of(cls, manifest: Manifest, record: CheckpointRecord, fetcher: Fetcher) -> StoredCheckpoint:
        """Return the checkpoint that a verified manifest describes."""
        return cls(
            record,
            tuple(ImageStream(c.name, StoredSource(manifest, c, fetcher)) for c in manifest.streams),
            tuple(FileContent(c.name, StoredSource(manifest, c, fetcher)) for c in manifest.files),
            manifest.facts,
            manifest,
            fetcher,
        )

    def memory_runs(self, name: str) -> MemoryRuns | None:
        """Return where the pages of stream ``name`` lie; None if it is not memory.

        Raises:
            KeyError: there is no such stream.
            StoreError: its cell table cannot be read.
        """
        content = {c.name: c for c in self.manifest.streams}[name]
        if content.space is None:
            return None
        runs = MemoryRuns(content.space, array("Q"), array("Q"))
        for page in self.manifest.pages(content):
            cells = ((row.cell, row.bitmap) for row in read_page(self.manifest, self.fetcher, page))
            chunks.runs_of(cells, runs.starts, runs.lengths)
        return runs


def read_page(manifest: Manifest, fetcher: Fetcher, page: PageRef) -> Iterator[tables.Row]:
    """Yield the rows of a cell table's page; StoreError."""
    if page.pack == INLINE:
        return tables.rows(manifest.inline[page.offset : page.offset + page.raw])
    pack = manifest.packs[page.pack][0]
    location = Location(page.pack, page.offset, page.stored, page.raw)
    return tables.rows(fetcher.chunk(Kind.TABLE, page.chunk, pack, location))


class StoredSource:
    """The bytes of one stream or file; see `Source`. Thread-safe.

    Args:
        manifest: of the checkpoint.
        content: which of its contents.
        fetcher: reads chunks.
    """

    def __init__(self, manifest: Manifest, content: Content, fetcher: Fetcher) -> None:
        self._manifest = manifest
        self._content = content
        self._fetcher = fetcher
        self._ends: list[int] | None = None
        self._page: tuple[int, list[tables.Row], list[int]] | None = None
        self._last: tuple[tables.Row, bytes | memoryview] | None = None

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._content.size

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """Return bytes; see `Source.read`. For whole contents `pieces` is faster."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise ValueError(f"{length} bytes at {offset} are not inside {self._content.name}")
        parts: list[bytes | memoryview] = []
        while length:
            start, rows = self._rows_at(offset, length)
            data = self._contents(rows)
            skip = offset - start
            for part in data:
                piece = memoryview(part)[skip : skip + length]
                skip = max(skip - len(part), 0)
                parts.append(piece)
                offset += len(piece)
                length -= len(piece)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def pieces(self) -> Iterator[bytes]:
        """Yield the whole content in order, in pieces of some 4 MiB, the next ones being read meanwhile."""
        if self.size <= WINDOW_BYTES:
            yield from map(self._join, self.windows())
            return
        pending: deque[Future[bytes]] = deque()
        pool = ThreadPoolExecutor(THREADS, "restore-read")
        try:
            for window in self.windows():
                pending.append(pool.submit(self._join, window))
                if len(pending) >= WINDOWS_AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def windows(self) -> Iterator[list[tables.Row]]:
        """Yield all rows in order, some 4 MiB of content at a time."""
        window: list[tables.Row] = []
        size = 0
        for page in self._manifest.pages(self._content):
            for row in read_page(self._manifest, self._fetcher, page):
                if window and size + row.raw > WINDOW_BYTES:
                    yield window
                    window, size = [], 0
                window.append(row)
                size += row.raw
        if window:
            yield window

    def _join(self, window: Sequence[tables.Row]) -> bytes:
        return b"".join(self._fetcher.contents(window))

    def _rows_at(self, offset: int, length: int) -> tuple[int, list[tables.Row]]:
        """Return the rows of one page from the one that holds byte ``offset`` on, and that one's first byte."""
        pages = list(self._manifest.pages(self._content))
        if self._ends is None:
            self._ends = list(itertools.accumulate(page.content for page in pages))
        number = bisect.bisect_right(self._ends, offset)
        cached = self._page
        if cached is None or cached[0] != number:
            rows = list(read_page(self._manifest, self._fetcher, pages[number]))
            begin = self._ends[number] - pages[number].content
            starts = list(itertools.accumulate((row.raw for row in rows), initial=begin))
            cached = self._page = (number, rows, starts)
        _, rows, starts = cached
        first = bisect.bisect_right(starts, offset) - 1
        last = bisect.bisect_left(starts, offset + length)
        return starts[first], rows[first:last]

    def _contents(self, rows: Sequence[tables.Row]) -> list[bytes | memoryview]:
        """Return the rows' contents; the last one is kept, since small reads follow each other."""
        if self._last is not None and rows[0] == self._last[0]:
            return [self._last[1], *self._fetcher.contents(rows[1:])]
        data = self._fetcher.contents(rows)
        self._last = (rows[-1], data[-1])
        return data
