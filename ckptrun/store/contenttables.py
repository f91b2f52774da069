"""The cell tables of a manifest while it is written: pages in order, small ones in the manifest, others as chunks.

Called by `writing`. It must not know what a cell's bytes are, nor how a chunk is stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptrun.store import tables
from ckptrun.store.manifest import INLINE, INLINE_ROWS, PageRef, encode_ref

if TYPE_CHECKING:
    from collections.abc import Callable
    from weakref import WeakMethod


class ContentTables:
    """The cell tables of all contents of a snapshot, page by page, in order.

    Args:
        store: stores a page as a chunk, given its bytes and how much content it covers. Weak: a circle would keep the
            snapshot and its memory until the next garbage collection.
        contents: how many there are.
    """

    def __init__(self, store: WeakMethod[Callable[[bytes, int], PageRef]], contents: int) -> None:
        self._store = store
        self._refs: list[bytes] = []
        self._inline = bytearray()
        self._extents = [(0, 0)] * contents
        self._number = -1
        self._builder: tables.PageBuilder | None = None

    def builder(self, number: int, cell: int) -> tables.PageBuilder:
        """Return the page that a cell of a content belongs to."""
        page = cell // tables.CELLS_PER_PAGE
        if self._builder is None or number != self._number or page != self._builder.number:
            self._close()
            self._number, self._builder = number, tables.PageBuilder(page)
        return self._builder

    def finish(self) -> tuple[bytes, bytes, list[tuple[int, int]]]:
        """Return page references, inline pages, and each content's first reference and count."""
        self._close()
        return b"".join(self._refs), bytes(self._inline), self._extents

    def _close(self) -> None:
        builder, self._builder = self._builder, None
        if builder is None:
            return
        page = builder.encode()
        if builder.rows <= INLINE_ROWS:
            ref = PageRef(tables.NO_ID, INLINE, len(self._inline), len(page), len(page), builder.content)
            self._inline += page
        else:
            store = self._store()
            assert store is not None
            ref = store(page, builder.content)
        first, count = self._extents[self._number]
        self._extents[self._number] = (first if count else len(self._refs), count + 1)
        self._refs.append(encode_ref(ref))
