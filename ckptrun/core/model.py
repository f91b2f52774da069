"""The words of the domain as data: checkpoints, snapshots, their streams and files.

Everyone imports this module; it imports only the standard library's data modules and decides nothing.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterator, Mapping

PAGE_SIZE = 4096
"""Bytes of one page as CRIU stores it."""

CELL_SIZE = 64 * 1024
"""Bytes of address space one cell of the virtual-address grid covers: 16 pages."""

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


class Trigger(enum.StrEnum):
    """Why a checkpoint was taken."""

    INTERVAL = "interval"
    REQUEST = "request"
    PREEMPTION = "preemption"
    EXIT = "exit"


class RunState(enum.StrEnum):
    """How the last run of a lineage stands, as its HEAD records it."""

    RUNNING = "running"
    INTERRUPTED = "interrupted"
    FINISHED = "finished"
    FAILED = "failed"


class Source(Protocol):
    """Readable bytes of known size: a range of staging, a file, or chunks of a store."""

    @property
    def size(self) -> int:
        """Length in bytes."""

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """Return exactly ``length`` bytes from ``offset``; both in bytes and inside the size."""

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Yield the whole content in order, in pieces of convenient size (at most a few MiB)."""


@dataclass(frozen=True, slots=True)
class BytesSource:
    """A source that is a bytes object."""

    data: bytes

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self.data)

    def read(self, offset: int, length: int) -> memoryview:
        """Return a view; see `Source.read`."""
        return memoryview(self.data)[offset : offset + length]

    def pieces(self) -> Iterator[memoryview]:
        """Yield the bytes as one piece."""
        if self.data:
            yield memoryview(self.data)


@dataclass(frozen=True, slots=True)
class MemoryRuns:
    """Where the pages of one ``pages-N.img`` stream lie in an address space.

    Args:
        space: a name for the address space that is stable between checkpoints, as ``mm-1001`` or ``shmem-5``.
        starts: first page number (virtual address / 4096) of each run, ascending.
        lengths: pages in each run. Adjacent runs are merged; runs never overlap.

    The stream's bytes are the pages of all runs, in this order, and nothing else.
    """

    space: str
    starts: array[int]
    lengths: array[int]


@dataclass(frozen=True, slots=True)
class ImageStream:
    """One file of CRIU's image: its name, its bytes, and for memory where the pages belong."""

    name: str
    data: Source
    memory: MemoryRuns | None = None


@dataclass(frozen=True, slots=True)
class FileContent:
    """Content of one journaled file as of the freeze, named by a key that its record in the facts refers to.

    Args:
        key: its name.
        data: its bytes.
        fixed: the key says what the bytes are, in this lineage and for ever: a store that knows the key need not read
            them again.
    """

    key: str
    data: Source
    fixed: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything one checkpoint consists of, before it is stored.

    Args:
        id: unique, short, lower-case; sorts in no particular way.
        trigger: why it was taken.
        created: seconds since the epoch, at the freeze.
        streams: the process images.
        files: contents of journaled files.
        facts: everything else a restore needs, as JSON: externals, journal records, clocks, compatibility, …
        metrics: the job's figures, for the record.
    """

    id: str
    trigger: Trigger
    created: float
    streams: tuple[ImageStream, ...]
    files: tuple[FileContent, ...] = ()
    facts: Mapping[str, Json] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """What HEAD says about one committed checkpoint; sizes in bytes, durations in seconds, times since the epoch."""

    id: str
    seq: int
    epoch: int
    trigger: Trigger
    created: float
    committed: float
    frozen_seconds: float
    upload_seconds: float
    memory_bytes: int
    new_bytes: int
    stored_bytes: int
    files: int
    inexact: tuple[str, ...] = ()
    pinned: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Exit:
    """Whose exit code ended a run."""

    by: str
    code: int
