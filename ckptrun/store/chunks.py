"""Where content is cut into chunks.

Memory is cut on the virtual-address grid: a chunk is the present pages of one 64 KiB cell. One new page early in an
address space then changes one chunk; cut by offset in CRIU's file, it would shift all later ones. Everything else is
cut into 1 MiB. A stream's bytes are the concatenation of its chunks, either way.

Called by `writing`. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ckptrun.core.model import CELL_SIZE, PAGE_SIZE

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterable, Iterator

    from ckptrun.core.model import MemoryRuns

PIECE_SIZE = 1 << 20
"""Bytes of a chunk of anything but memory."""
PAGES_PER_CELL = CELL_SIZE // PAGE_SIZE


class Cut(NamedTuple):
    """One chunk's place.

    Args:
        cell: number of the cell on the grid, or of the piece.
        bitmap: which of the cell's pages are present, the lowest bit the first; 0 for a piece.
        length: bytes.
    """

    cell: int
    bitmap: int
    length: int


def on_grid(memory: MemoryRuns | None, size: int) -> bool:
    """Say whether a stream can be cut on the grid: its runs ascend, do not overlap and are exactly its bytes."""
    if memory is None or len(memory.starts) != len(memory.lengths):
        return False
    end = 0
    for start, length in zip(memory.starts, memory.lengths, strict=True):
        if start < end or length <= 0:
            return False
        end = start + length
    return sum(memory.lengths) * PAGE_SIZE == size


def cut(memory: MemoryRuns | None, size: int) -> Iterator[Cut]:
    """Yield the chunks of a stream of ``size`` bytes, in the order of its bytes."""
    if memory is not None and on_grid(memory, size):
        return _cut_memory(memory)
    return _cut_pieces(size)


def _cut_pieces(size: int) -> Iterator[Cut]:
    for number, offset in enumerate(range(0, size, PIECE_SIZE)):
        yield Cut(number, 0, min(PIECE_SIZE, size - offset))


def _cut_memory(memory: MemoryRuns) -> Iterator[Cut]:
    current, bitmap = -1, 0
    for start, length in zip(memory.starts, memory.lengths, strict=True):
        page, end = start, start + length
        while page < end:
            cell, first = divmod(page, PAGES_PER_CELL)
            stop = min(end, (cell + 1) * PAGES_PER_CELL)
            if cell != current:
                if bitmap:
                    yield Cut(current, bitmap, bitmap.bit_count() * PAGE_SIZE)
                current, bitmap = cell, 0
            bitmap |= ((1 << (stop - page)) - 1) << first
            page = stop
    if bitmap:
        yield Cut(current, bitmap, bitmap.bit_count() * PAGE_SIZE)


def runs_of(cells: Iterable[tuple[int, int]], starts: array[int], lengths: array[int]) -> None:
    """Append to ``starts`` and ``lengths`` the page runs of cells and bitmaps, adjacent ones merged."""
    end = starts[-1] + lengths[-1] if starts else -1
    for cell, bitmap in cells:
        page, bits = cell * PAGES_PER_CELL, bitmap
        while bits:
            gap = (bits & -bits).bit_length() - 1
            page, bits = page + gap, bits >> gap
            count = (~bits & (bits + 1)).bit_length() - 1
            if page == end:
                lengths[-1] += count
            else:
                starts.append(page)
                lengths.append(count)
            page, bits = page + count, bits >> count
            end = page
