"""The threads that carry bytes between the capsule's pipes and this process's own streams.

Used by `streams` only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import select
import signal
import stat
import struct
import termios
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ckptrun.errors import RestoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptrun.capsule.terminal import Terminal

_CHUNK = 65536
_BACKGROUND_MILLISECONDS = 200
"""How often a run in the background looks whether it was brought to the foreground."""
HURRY_SECONDS = 3.0
"""How long a run that is being ended waits for a reader that takes nothing."""
_LOOK_SECONDS = 0.2
KEPT_INPUT_LIMIT = 64 << 20
"""Bytes of standard input kept for replay at most."""


@dataclass(frozen=True, slots=True)
class FileMark:
    """A place in a regular file: its path and identity, and an offset in bytes."""

    path: str
    device: int
    inode: int
    at: int


class Output:
    """One output stream: from the capsule's pipe to `target`.

    `count` is the number of bytes the job has written to it since the lineage began. A regular file is written
    inside the freeze to the last byte, so that `where` it ends then can be told and it can be cut back to there.
    """

    def __init__(self, target: int, name: str, say: Callable[[str], None]) -> None:
        self.count = 0
        self.broken = False
        self._target = target
        self._name = name
        self._say = say
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._is_file = _is_regular(target)
        self._pending: list[bytes] = []
        self._reader = -1
        self._wake = (-1, -1)
        self._thread: threading.Thread | None = None

    def open(self) -> int:
        """Start carrying a new pipe; returns its write end."""
        self._reader, writer = os.pipe()
        if self.broken:  # nobody reads it any more: the job is to find that out as it would have
            os.close(self._reader)
            return writer
        os.set_blocking(self._reader, False)
        self._wake = os.pipe()
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()
        return writer

    def drain(self) -> int:
        """Take everything out of the pipe and return `count`; the writers must be stopped."""
        with self._lock:
            if self._thread and not self.broken:
                while data := self._read():
                    self._pending.append(data)
                os.write(self._wake[1], b"x")
        if self._is_file and not self.broken:
            self._flush()
        return self.count

    def where(self) -> FileMark | None:
        """Return where the file ends that this stream goes to; None if it is no file. Call it after every `drain`."""
        if not self._is_file or self.broken:
            return None
        status = os.fstat(self._target)
        appending = fcntl.fcntl(self._target, fcntl.F_GETFL) & os.O_APPEND
        at = status.st_size if appending else os.lseek(self._target, 0, os.SEEK_CUR)
        return FileMark(
            str(Path(f"/proc/self/fd/{self._target}").readlink()), status.st_dev, status.st_ino, at
        )

    def go_back(self, mark: FileMark, cut: Callable[[str, int], object]) -> int:
        """Cut the file back to `mark` if it is still the same one; return how many bytes went.

        Args:
            mark: what `where` said at the freeze.
            cut: shortens the file of a path to a size and keeps what it removes.
        """
        if not self._is_file:
            return 0
        status = os.fstat(self._target)
        excess = status.st_size - mark.at
        if (status.st_dev, status.st_ino) != (mark.device, mark.inode) or excess <= 0:
            return 0
        path = str(Path(f"/proc/self/fd/{self._target}").readlink())
        with contextlib.suppress(OSError):
            if Path(path).stat().st_ino == status.st_ino:
                cut(path, mark.at)
        os.ftruncate(self._target, mark.at)
        os.lseek(self._target, mark.at, os.SEEK_SET)
        return excess

    def _flush(self) -> None:
        with self._writing:
            with self._lock:
                parts, self._pending = self._pending, []
            try:
                self._write(b"".join(parts))
            except OSError:  # the pump meets the same and says it
                with self._lock:
                    self._pending = parts + self._pending

    def finish(self, hurry: threading.Event) -> None:
        """Carry what is left; every writer is gone. Once `hurry` is set, a reader that takes nothing is left alone."""
        if self._thread:
            while self._thread.is_alive() and not hurry.is_set():
                self._thread.join(_LOOK_SECONDS)
            self._thread.join(HURRY_SECONDS)
            if self._thread.is_alive():
                self._say(f"nobody reads {self._name}: the last of it is lost")
                return
            self._thread = None
            os.close(self._wake[0])
            os.close(self._wake[1])

    def _read(self) -> bytes | None:
        """Return what is in the pipe, b"" at its end, None if it is empty now."""
        try:
            data = os.read(self._reader, _CHUNK)
        except BlockingIOError:
            return None
        self.count += len(data)
        return data

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        poll.register(self._wake[0], select.POLLIN)
        try:
            while True:
                woken = any(fd == self._wake[0] for fd, _ in poll.poll())
                with self._writing:
                    with self._lock:
                        if woken:
                            os.read(self._wake[0], _CHUNK)
                        data = self._read()
                        parts, self._pending = self._pending, []
                    if data:
                        parts.append(data)
                    self._write(b"".join(parts))
                if data == b"":
                    return
        except OSError as error:  # nobody takes our stream any more, as the job is about to learn
            self.broken = True
            if error.errno != errno.EPIPE:
                self._say(f"{self._name} cannot be written ({error.strerror}): the job finds its pipe broken")
        finally:
            with self._lock:
                os.close(self._reader)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._target, view) :]
            except BlockingIOError:
                select.select([], [self._target], [])


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
            RestoreError: the bytes are kept no more, or the new input is not the old one.
        """
        with self._lock:
            if self._base + len(self._kept) < offset and not self._at_end:
                self._say(f"reading the first {offset} bytes of standard input again: the job has had them")
            while self._base + len(self._kept) < offset and not self._at_end:
                self._take(os.read(self._source, _CHUNK))
                self._given = min(offset, self._base + len(self._kept))
            end = self._base + len(self._kept)
            if not self._base <= offset <= end:
                raise RestoreError(
                    f"standard input cannot be replayed from byte {offset}: bytes {self._base} to {end} are at hand"
                )
            if offset in self._marks:
                self._hash, self._hashed = self._marks[offset].copy(), offset
            self._hash_to(offset)
            if digest and self._hashed == offset and self._hash.hexdigest() != digest:
                raise RestoreError("standard input is not what the job had read before this checkpoint")
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


class Keys:
    r"""Key presses from our terminal to the relay; never replayed.

    In the background nothing is read: the keys are the shell's, and reading would stop this process.

    Args:
        terminal: whose `source` is read.
        writer: the relay's pipe.
        interrupted: told of Ctrl-C and of the quit key.
        returned: told that the terminal is ours and not in raw mode: a shell's ``fg`` says nothing to a
            process that was not stopped.
    """

    def __init__(
        self,
        terminal: Terminal,
        writer: int,
        interrupted: Callable[[], None],
        returned: Callable[[], None],
    ) -> None:
        self._terminal = terminal
        self._writer = writer
        self._interrupted = interrupted
        self._returned = returned
        self._stop = os.pipe()
        self._thread = threading.Thread(target=self._run, name="keys", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop reading the terminal."""
        os.write(self._stop[1], b"x")
        self._thread.join()
        for fd in (*self._stop, self._writer):
            os.close(fd)

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTIN})  # a read that comes too late fails instead
        with contextlib.suppress(OSError):
            while (data := self._next()) is not None:
                if b"\x03" in data or b"\x1c" in data:
                    self._interrupted()
                if data:
                    os.write(self._writer, data)

    def _next(self) -> bytes | None:
        """Return keys, perhaps none, once there is something to do; None at the end."""
        terminal = self._terminal
        assert terminal.source is not None
        mine = terminal.in_foreground()
        if mine and not terminal.raw:
            self._returned()
        poll = select.poll()
        poll.register(self._stop[0], select.POLLIN)
        if mine:
            poll.register(terminal.source, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(None if mine and terminal.raw else _BACKGROUND_MILLISECONDS)]
        if self._stop[0] in ready:
            return None
        if not ready:
            return b""
        try:
            return os.read(terminal.source, _CHUNK) or None
        except OSError as error:
            if error.errno == errno.EIO and not terminal.in_foreground():
                return b""
            raise


def _is_regular(fd: int) -> bool:
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode)
    except OSError:
        return False
