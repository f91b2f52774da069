"""One output stream of the job: a thread carries it from the capsule's pipe to a descriptor of ours.

Used by `streams` only.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptrun.capsule.redirect import FileMark, Redirect

_CHUNK = 65536
_SPLICE_NONBLOCK = 2
HURRY_SECONDS = 3.0
"""How long a run that is being ended waits for a reader that takes nothing."""
_LOOK_SECONDS = 0.2


class Output:
    """One output stream: from the capsule's pipe to `target`.

    `count` is the number of bytes the job has written to it since the lineage began. A regular file is written
    inside the freeze to the last byte, so that `where` it ends then can be told and it can be cut back to there.
    With `outlasting`, bytes that go into a pipe are moved by the kernel: however this process ends, none is lost and
    none is there twice, but for what a freeze has drained; `settled` says that there is nothing of that kind.

    Args:
        target: where it goes.
        name: of the stream.
        say: told, in one sentence, what the user should know.
        file: the regular file that `target` is, or None.
        outlasting: the job may outlast this process.
    """

    def __init__(
        self,
        target: int,
        name: str,
        say: Callable[[str], None],
        file: Redirect | None = None,
        *,
        outlasting: bool = False,
    ) -> None:
        self.count = 0
        self.broken = False
        self._target = target
        self._name = name
        self._say = say
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self.file = file
        self._outlasting = outlasting
        self.broke: Callable[[], None] = lambda: None
        """Called, from a thread, when nobody takes the stream any more."""
        self._pending: list[bytes] = []
        self._reader = -1
        self._wake = (-1, -1)
        self._thread: threading.Thread | None = None

    def open(self) -> int:
        """Start carrying a new pipe; returns its write end."""
        reader, writer = os.pipe()
        if self.broken:  # nobody reads it any more: the job is to find that out as it would have
            os.close(reader)
            return writer
        self.carry(reader)
        return writer

    def carry(self, reader: int) -> None:
        """Start carrying a pipe; its reading end is this object's from now on."""
        self._reader = reader
        os.set_blocking(reader, False)
        self._wake = os.pipe()
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    @property
    def reader(self) -> int:
        """The reading end of the pipe that is carried; -1: none is."""
        return self._reader if self._thread and not self.broken else -1

    @property
    def settled(self) -> bool:
        """Whether nothing would be lost with this process: all goes into a pipe, or nowhere, and none is on its way."""
        if not self._moves() or not self._writing.acquire(blocking=False):
            return False
        try:
            return not self._pending and not self.broken
        finally:
            self._writing.release()

    def _moves(self) -> bool:
        """Whether the kernel is to move what comes straight to where it goes, and can."""
        if not self._outlasting:
            return False
        status = os.fstat(self._target)
        nowhere = stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3)
        return nowhere or stat.S_ISFIFO(status.st_mode)

    def drain(self) -> int:
        """Take everything out of the pipe and return `count`; the writers must be stopped."""
        with self._lock:
            if self._reader >= 0 and not self.broken:
                while data := self._read():
                    self._pending.append(data)
                os.write(self._wake[1], b"x")
        if self.file and not self.broken:
            self._flush()
        return self.count

    def where(self) -> FileMark | None:
        """Return where the file ends that this stream goes to; None if it is no file. Call it after every `drain`."""
        return None if self.file is None or self.broken else self.file.mark(self._target)

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
                    moves = self._moves()
                    with self._lock:
                        if woken:
                            os.read(self._wake[0], _CHUNK)
                        data = None if moves else self._read()
                        parts, self._pending = self._pending, []
                    if data:
                        parts.append(data)
                    self._write(b"".join(parts))
                ended = self._move() if moves else data == b""
                if ended:
                    return
        except OSError as error:  # nobody takes our stream any more, as the job is about to learn
            self.broken = True
            self.broke()
            if error.errno != errno.EPIPE:
                self._say(f"{self._name} cannot be written ({error.strerror}): the job finds its pipe broken")
        finally:
            with self._lock:  # its number may be anybody's from now on
                os.close(self._reader)
                self._reader = -1

    def _move(self) -> bool:
        """Have the kernel move what is in the pipe, once there is room for it; return whether the pipe has ended."""
        select.select([], [self._target], [])
        with self._lock:
            if self._pending:  # of a freeze meanwhile: it comes first
                return False
            try:
                moved = os.splice(self._reader, self._target, _CHUNK, flags=_SPLICE_NONBLOCK)
            except BlockingIOError:  # nothing is there, or somebody else has filled the target
                return False
            self.count += moved
            return moved == 0

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                written = self.file.write(self._target, view) if self.file else os.write(self._target, view)
                view = view[written:]
            except BlockingIOError:
                select.select([], [self._target], [])
