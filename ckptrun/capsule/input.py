"""Piped standard input: a thread feeds it to the job, keeps it for replay, and counts what the job has read.

Used by `streams` only.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import select
import struct
import termios
import threading
from typing import TYPE_CHECKING

from ckptrun.errors import RestoreError, UnfitError

if TYPE_CHECKING:
    from collections.abc import Callable


_CHUNK = 65536
_SAME = "give it the same input again"
KEPT_INPUT_LIMIT = 64 << 20
"""Bytes of standard input kept for replay at most."""


class Input:
    """Piped standard input: passed on, kept for replay, counted by what the job has read."""

    def __init__(self, source: int, say: Callable[[str], None]) -> None:
        self._source = source
        self._say = say
        self._lock = threading.Lock()
        self._kept = bytearray()
        self._base = 0
        self._given = 0
        self._at_end = False
        self._hashed = 0
        self._hash = hashlib.blake2b(digest_size=16)
        self._marks = {0: self._hash.copy()}
        self._writer = -1
        self._last = -1
        self._stop: tuple[int, int] | None = None
        self._thread: threading.Thread | None = None
        self._warned = False

    def open(self) -> int:
        """Start feeding a new pipe from the current position; returns its read end."""
        reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._stop = os.pipe()
        self._thread = threading.Thread(target=self._run, name="stdin", daemon=True)
        self._thread.start()
        return reader

    def position(self) -> tuple[int, str]:
        """Return how many bytes the job has read, and their digest; the job must be stopped."""
        with self._lock:
            consumed = self._given - self._unread()
            self._hash_to(consumed)
            self._marks[consumed] = self._hash.copy()
            return consumed, self._hash.hexdigest()

    def rewind(self, offset: int, digest: str) -> None:
        """Go to `offset`: back within what is kept, or forward by reading a new run's input.

        Raises:
            RestoreError: the bytes are kept no more.
            UnfitError: the new input is not the old one.
        """
        with self._lock:
            if self._base + len(self._kept) < offset and not self._at_end:
                self._say(f"reading the first {offset} bytes of standard input again: the job has had them")
            while self._base + len(self._kept) < offset and not self._at_end:
                self._take(os.read(self._source, _CHUNK))
                self._given = min(offset, self._base + len(self._kept))
            end = self._base + len(self._kept)
            if self._at_end and end < offset:
                raise UnfitError(
                    f"the job had read {offset} bytes of standard input, and it ends after {end}", hint=_SAME
                )
            if not self._base <= offset <= end:
                raise RestoreError(
                    f"standard input cannot be replayed from byte {offset}: bytes {self._base} to {end} are at hand"
                )
            if offset in self._marks:
                self._hash, self._hashed = self._marks[offset].copy(), offset
            self._hash_to(offset)
            if digest and self._hashed == offset and self._hash.hexdigest() != digest:
                raise UnfitError(
                    "standard input is not what the job had read before this checkpoint", hint=_SAME
                )
            self._marks[offset] = self._hash.copy()
            self._given = offset

    def forget(self, before: int) -> None:
        """Drop kept bytes before `before`, but none that are not hashed yet."""
        with self._lock:
            self._drop(min(before, self._hashed))
            self._marks = {offset: mark for offset, mark in self._marks.items() if offset >= self._base}

    def disconnect(self) -> None:
        """Stop feeding the pipe."""
        if self._thread and self._stop:
            os.write(self._stop[1], b"x")
            self._thread.join()
            self._thread = None
            os.close(self._stop[0])
            os.close(self._stop[1])
        if self._last >= 0:
            os.close(self._last)
            self._last = -1

    def _unread(self) -> int:
        """Return the bytes in the pipe; known after its end has been written too."""
        fd = self._writer if self._writer >= 0 else self._last
        if fd < 0:
            return 0
        return int(struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0\0\0\0"))[0])

    def _run(self) -> None:
        assert self._stop is not None
        try:
            while self._wait(self._writer, select.POLLOUT):
                with self._lock:
                    ready = self._given < self._base + len(self._kept)
                if not ready and not self._at_end:
                    if not self._wait(self._source, select.POLLIN):
                        return
                    data = os.read(self._source, _CHUNK)
                    with self._lock:
                        self._take(data)
                with self._lock:
                    at = self._given - self._base
                    if at >= len(self._kept):  # the end of the input, which the job may not have read to yet
                        self._last = os.open(f"/proc/self/fd/{self._writer}", os.O_RDONLY | os.O_NONBLOCK)
                        return
                    with contextlib.suppress(BlockingIOError):
                        self._given += os.write(self._writer, self._kept[at : at + _CHUNK])
        except OSError:
            return  # the job closed its end
        finally:
            with self._lock:
                os.close(self._writer)
                self._writer = -1

    def _wait(self, fd: int, event: int) -> bool:
        """Wait for an event on `fd`; False when told to stop."""
        assert self._stop is not None
        poll = select.poll()
        poll.register(fd, event)
        poll.register(self._stop[0], select.POLLIN)
        return all(ready != self._stop[0] for ready, _ in poll.poll())

    def _take(self, data: bytes) -> None:
        self._kept += data
        self._at_end = not data
        excess = len(self._kept) - KEPT_INPUT_LIMIT
        if excess > 0:
            cut = min(self._base + excess, self._given)
            self._hash_to(cut)
            self._drop(cut)
            if not self._warned:
                self._warned = True
                self._say(
                    f"more than {KEPT_INPUT_LIMIT >> 20} MiB of standard input since the oldest checkpoint: "
                    "older checkpoints cannot be restored in this run"
                )

    def _drop(self, before: int) -> None:
        if before > self._base:
            del self._kept[: before - self._base]
            self._base = before

    def _hash_to(self, offset: int) -> None:
        if offset > self._hashed >= self._base:
            self._hash.update(self._kept[self._hashed - self._base : offset - self._base])
            self._hashed = offset
