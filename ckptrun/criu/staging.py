"""Staging: warm, preallocated memory that a dump is captured into.

A dump that lands in memory which is already there costs a memory copy; faulting fresh pages in is up to twenty times
slower. So the arena is mapped with huge pages, populated in the background before the first dump, kept, and used again.
It has slots: one holds the newest local copy (for a fast restore) while the next dump fills another. A dump that does
not fit into memory goes to a nameless file instead: slower, but the job is checkpointed.

Called by the supervisor and by `stream`. It must not know what the bytes mean.
"""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import mmap
import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptrun.errors import DumpError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

MIB = 1 << 20
WINDOW = MIB
"""Bytes one read from a pipe can take: the size of the pipe."""
PIECE = 4 * MIB
POPULATE_STEP = 16 * MIB
SLACK = 64 * MIB
"""Room for images other than pages and for growth between the estimate and the dump."""
_MAP_NORESERVE = 0x4000
_MADV_HUGEPAGE = 14
_MADV_POPULATE_WRITE = 23
_MADV_DONTNEED = 4


class ArenaFullError(DumpError):
    """The dump does not fit into staging."""


class Slot:
    """One mapping that one dump fills from its start; only the dump's reader thread appends.

    Args:
        capacity: bytes it can hold.
        spool: a folder on disk to hold them in; None: memory.

    Raises:
        OSError: the disk has no room for them.
    """

    def __init__(self, capacity: int, spool: Path | None = None) -> None:
        self.capacity = capacity
        self.on_disk = spool is not None
        if spool is None:
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
            self._map = mmap.mmap(-1, capacity, flags=flags)
            with contextlib.suppress(OSError):
                self._map.madvise(_MADV_HUGEPAGE)
        else:
            self._map = _on_disk(spool, capacity)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self.view = memoryview(self._map)
        self.used = 0
        self.populated = 0
        self._lock = threading.Lock()

    def window(self) -> memoryview:
        """Return the next free bytes, at most `WINDOW`.

        Raises:
            ArenaFullError: there are none.
        """
        if self.used >= self.capacity:
            raise ArenaFullError(
                f"the job is larger than staging ({self.capacity // MIB} MiB)",
                hint="give it more with --staging",
            )
        return self.view[self.used : min(self.used + WINDOW, self.capacity)]

    def put(self, pieces: Iterable[bytes | memoryview]) -> Extents:
        """Copy bytes in and return where they are; never while a dump is being read into this slot."""
        extents = Extents(self)
        for piece in pieces:
            rest = memoryview(piece).cast("B")
            while rest:
                window = self.window()
                n = min(len(window), len(rest))
                window[:n] = rest[:n]
                extents.append(self.used, n)
                self.used += n
                rest = rest[n:]
        return extents

    def populate(self, size: int, stop: threading.Event | None = None) -> None:
        """Fault the first `size` bytes in, in steps, without holding the interpreter lock."""
        if self.on_disk:
            return
        size = min(-(-size // MIB) * MIB, self.capacity)
        while not (stop and stop.is_set()):
            with self._lock:
                step = min(POPULATE_STEP, size - self.populated)
                if step <= 0 or _madvise(self._address + self.populated, step, _MADV_POPULATE_WRITE) != 0:
                    return  # done, or an old kernel: the dump faults them in
                self.populated += step

    def touch(self, size: int) -> None:
        """Read a byte of every page among the first `size` bytes that was populated before.

        A host may have taken idle memory back (after some 10 s on virtual machines). Only an access brings it in
        again, and it must not be the dump's, with the job frozen.
        """
        end = 0 if self.on_disk else min(size, self.populated)
        for start in range(0, end, POPULATE_STEP):
            bytes(self.view[start : min(start + POPULATE_STEP, end) : mmap.PAGESIZE])

    def give_back(self, keep: int) -> None:
        """Return all memory past `keep` bytes to the machine."""
        keep = -(-keep // POPULATE_STEP) * POPULATE_STEP
        with self._lock:
            if keep < self.capacity:  # a dump may have gone further than what was populated
                _madvise(self._address + keep, self.capacity - keep, _MADV_DONTNEED)
            self.populated = min(self.populated, keep)


def _on_disk(folder: Path, capacity: int) -> mmap.mmap:
    """Map a nameless private file whose blocks are reserved: a full disk must show here, not as a SIGBUS later."""
    fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, capacity)
        return mmap.mmap(fd, capacity)
    finally:
        os.close(fd)


def _madvise(address: int, length: int, advice: int) -> int:
    call = _libc.madvise
    call.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return int(call(address, length, advice))


_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class Extents:
    """A `Source`: bytes of one stream, scattered over a slot in the order they arrived."""

    slot: Slot
    offsets: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    size: int = 0

    def append(self, offset: int, length: int) -> None:
        """Add `length` bytes at `offset` of the slot."""
        if self.offsets and self.offsets[-1] + (self.size - self.starts[-1]) == offset:
            self.size += length
            return
        self.offsets.append(offset)
        self.starts.append(self.size)
        self.size += length

    def _end(self, index: int) -> int:
        return self.starts[index + 1] if index + 1 < len(self.starts) else self.size

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """Return a view where the bytes lie together, else a copy; see `Source.read`."""
        if length == 0:
            return b""
        index = bisect.bisect_right(self.starts, offset) - 1
        parts: list[memoryview] = []
        while length:
            skip = offset - self.starts[index]
            take = min(length, self._end(index) - offset)
            at = self.offsets[index] + skip
            parts.append(self.slot.view[at : at + take])
            offset += take
            length -= take
            index += 1
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Yield the content in order, in views of at most 4 MiB."""
        for index, (start, at) in enumerate(zip(self.starts, self.offsets, strict=True)):
            length = self._end(index) - start
            for done in range(0, length, PIECE):
                yield self.slot.view[at + done : at + min(done + PIECE, length)]


class Arena:
    """The slots of one run.

    Args:
        limit: bytes of memory staging may take in all.
        slots: how many dumps it can hold.
        spool: a private folder on disk for dumps that are too large for memory; None refuses them.
    """

    def __init__(self, limit: int, slots: int = 2, spool: Path | None = None) -> None:
        self.limit = limit
        self._free: list[Slot] = []
        self._slots = slots
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._worker: threading.Thread | None = None
        self._spool = spool
        self._capacity = limit // slots // POPULATE_STEP * POPULATE_STEP
        self._free = [Slot(self._capacity) for _ in range(slots if self._capacity else 0)]
        self._all = list(self._free)

    @property
    def held(self) -> int:
        """Bytes of memory that staging occupies now."""
        return sum(max(slot.populated, slot.used) for slot in self._all)

    def prepare(self, size: int, ready: Callable[[], None]) -> None:
        """Make the next free slot warm for a dump of `size` bytes, in the background, then call `ready`."""
        before = self._worker

        def work() -> None:
            if before:
                before.join()
            with self._lock:
                slot = self._next_free()
            if slot:
                slot.populate(size + SLACK, self._stop)
            if not self._stop.is_set():
                ready()

        self._worker = threading.Thread(target=work, name="staging", daemon=True)
        self._worker.start()

    def take(self, size: int = 0) -> Slot:
        """Return an empty slot for a dump of about `size` bytes.

        Raises:
            DumpError: every slot holds a checkpoint that is still needed, or neither memory nor disk have room.
        """
        if self._worker:
            self._worker.join()
        if self._spool is not None and size + SLACK > self._capacity:
            return self._take_on_disk(size + size // 4 + SLACK)
        with self._lock:
            slot = self._next_free()
            if slot is None:
                raise DumpError("staging is occupied by checkpoints that are not committed yet")
            self._free.remove(slot)
        slot.used = 0
        return slot

    def _take_on_disk(self, capacity: int) -> Slot:
        try:
            return Slot(capacity, self._spool)
        except OSError as error:
            raise DumpError(
                f"the job needs {capacity // MIB} MiB of staging: memory has {self._capacity // MIB} MiB, "
                f"and {self._spool} has no room either ({os.strerror(error.errno or 0)})",
                hint="free disk space, or give staging more memory with --staging",
            ) from error

    def _next_free(self) -> Slot | None:
        return max(self._free, key=lambda slot: slot.populated, default=None)

    def give(self, slot: Slot) -> None:
        """Take a slot back; nothing may read from it any more."""
        with self._lock:
            slot.used = 0
            if not slot.on_disk:  # a file's room is given back with its last reference
                self._free.append(slot)

    def shrink(self, keep: int) -> None:
        """Give memory back to the machine: free slots keep only `keep` bytes each."""
        with self._lock:
            for slot in self._free:
                slot.give_back(keep)

    def close(self) -> None:
        """Stop the background work."""
        self._stop.set()
