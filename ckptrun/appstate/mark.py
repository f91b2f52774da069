"""A state as it was at a moment, and how a checkpoint holds it. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptrun.errors import CorruptError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptrun.core.model import FileContent, Json, Source

SEGMENT = 32 << 20
"""Bytes of one content of a checkpoint: what is complete is never read again."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The first bytes of a generation: a name for the state they amount to; no bytes are the empty state."""

    generation: str = ""
    bytes: int = 0

    def to_json(self) -> dict[str, Json]:
        """Return it for a checkpoint's facts; nothing for an empty state."""
        return {"generation": self.generation, "bytes": self.bytes} if self.bytes else {}

    @classmethod
    def from_json(cls, value: object) -> Mark:
        """Return what `to_json` has said.

        Raises:
            CorruptError: it does not parse.
        """
        if not value:
            return cls()
        known = value if isinstance(value, dict) else {}
        generation, size = known.get("generation"), known.get("bytes")
        if isinstance(generation, str) and generation.isalnum() and isinstance(size, int) and size > 0:
            return cls(generation, size)
        raise CorruptError(f"what is said of a state does not parse: {value!r:.80}")

    def segments(self) -> list[tuple[str, int, int]]:
        """Return its contents in a checkpoint: key, offset and bytes of each, in order."""
        sizes = [(at, min(SEGMENT, self.bytes - at)) for at in range(0, self.bytes, SEGMENT)]
        return [(f"state-{self.generation}-{at // SEGMENT}-{size}", at, size) for at, size in sizes]


EMPTY = Mark()


@dataclass(frozen=True, slots=True)
class Frozen:
    """A state to be stored: its mark and its bytes."""

    mark: Mark = EMPTY
    contents: tuple[FileContent, ...] = ()


def stored_bytes(mark: Mark, files: Mapping[str, Source]) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a state that a checkpoint holds.

    Raises:
        CorruptError: it does not hold it.
        StoreError: it cannot be read.
    """
    for key, _, size in mark.segments():
        source = files.get(key)
        if source is None or source.size != size:
            raise CorruptError(f"a part of the job's state is missing: {key}")
        yield from source.pieces()
