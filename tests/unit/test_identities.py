from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from ckptrun.core.model import BytesSource
from ckptrun.criu.identities import renamed

if TYPE_CHECKING:
    from collections.abc import Iterator

THEN, OTHER, NOW = (2049, 7), (2049, 11), (40, 2**40)


def words(ident: tuple[int, int]) -> bytes:
    return struct.pack("=QQ", *ident)


@dataclass(frozen=True)
class Pieces(BytesSource):
    """A source that comes in pieces of a size."""

    size_of_piece: int

    def pieces(self) -> Iterator[memoryview]:
        for offset in range(0, self.size, self.size_of_piece):
            yield self.read(offset, min(self.size_of_piece, self.size - offset))


@pytest.mark.parametrize("size", [1, 3, 8, 15, 16, 17, 4096])
def test_pairs_are_changed_wherever_a_piece_ends(size: int):
    data = b"x" * 24 + words(THEN) + b"y" * 9 + words(THEN)[:15] + words(OTHER) * 2 + words(THEN)
    source = Pieces(data, size)
    changed = renamed({"pages-1.img": source}, {THEN: NOW, OTHER: THEN})["pages-1.img"]
    expected = b"x" * 24 + words(NOW) + b"y" * 9 + words(THEN)[:15] + words(THEN) * 2 + words(NOW)
    assert b"".join(map(bytes, changed.pieces())) == expected
    assert changed.size == len(data)
    for offset in range(0, len(data), 5):
        assert bytes(changed.read(offset, min(7, len(data) - offset))) == expected[offset : offset + 7]


def test_nothing_but_memory_is_changed():
    images = {"pages-3.img": BytesSource(words(THEN)), "files.img": BytesSource(words(THEN))}
    changed = renamed(images, {THEN: NOW})
    assert bytes(changed["files.img"].read(0, 16)) == words(THEN)
    assert bytes(changed["pages-3.img"].read(0, 16)) == words(NOW)
    assert renamed(images, {}) == images
