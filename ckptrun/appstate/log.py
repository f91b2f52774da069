"""The log of one state: batches appended to a file, an index of them, and generations.

A *generation* is one file that only grows, and only by one process: its name and a number of bytes name the state
that these bytes amount to, for ever and on every machine (`Mark`). Going back and compacting begin another one.
Any thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import threading
from typing import TYPE_CHECKING

from ckptrun.appstate.files import Held, Part, room_in, write
from ckptrun.appstate.index import Index
from ckptrun.appstate.mark import EMPTY, Frozen, Mark
from ckptrun.appstate.record import header, operations, records
from ckptrun.core.model import FileContent
from ckptrun.errors import CorruptError, UsageError
from ckptrun.job._state_batch import STATE_BYTES, full_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from ckptrun.appstate.batch import Batch
    from ckptrun.appstate.index import Entry
    from ckptrun.appstate.record import Operation


def load(fd: int, size: int) -> tuple[Index, int]:
    """Return what the records of a file amount to, and where the last sound one ends."""
    index, end = Index(), 0

    def read(at: int, count: int) -> bytes:
        return os.pread(fd, count, at)

    for record in records(fd, 0, size):
        try:
            index.apply(list(operations(read, record.at, record.size)))
        except ValueError:
            break
        if record.identity:
            index.remember(record.identity, record.result)
        end = record.end
    return index, end


def _filled(fd: int, mark: Mark, pieces: Callable[[], Iterable[bytes | memoryview]]) -> Index:
    """Write the bytes of a state into a file, and return what they amount to."""
    size = 0
    for piece in pieces():
        write(fd, size, piece)
        size += len(piece)
    index, end = load(fd, size)
    if not end == size == mark.bytes:
        raise CorruptError(f"the job's state {mark.generation} is damaged at byte {end}")
    return index


class Log:
    """A state in a folder of its own.

    Args:
        folder: made when it is needed.
        room: bytes that all entries may count.
    """

    def __init__(self, folder: Path, room: int = STATE_BYTES) -> None:
        self.lock = threading.RLock()
        self.folder = folder
        self.room = room
        self.generation = secrets.token_hex(8)
        self.size = 0
        self.index = Index()
        self.origin = EMPTY
        """What the first bytes of this generation are called elsewhere."""
        self.file: Held | None = None

    def __contains__(self, identity: str) -> bool:
        return identity in self.index.requests

    def mark(self) -> Mark:
        """Return the name of the state as it is."""
        with self.lock:
            if not self.size:
                return EMPTY
            return self.origin if self.size == self.origin.bytes else Mark(self.generation, self.size)

    def freeze(self) -> Frozen:
        """Return the state as it is, for a checkpoint; whatever happens to it later."""
        with self.lock:
            mark, file = self.mark(), self.file
            if file is None or not mark.bytes:
                return Frozen()
            contents = (
                FileContent(key, Part(file, at, size), fixed=True) for key, at, size in mark.segments()
            )
            return Frozen(mark, tuple(contents))

    def append(self, identity: str, batch: Batch, changes: Sequence[Operation], result: int = 0) -> None:
        """Carry a request out: its batch as one record, or nothing.

        Args:
            identity: of the request.
            batch: its bytes.
            changes: the same, read; their offsets count in the batch.
            result: what is remembered of it.

        Raises:
            UsageError: the state is full.
            OSError: the record cannot be written.
        """
        with self.lock:
            used = self.index.used_after(changes)
            if used > self.room and used > self.index.used:
                error, hint = full_words(self.room)
                raise UsageError(error, hint=hint)
            file = self._opened()
            head = header(identity, result, batch.size, batch.check)
            begin = self.size + len(head)
            try:
                write(file.fd, self.size, head)
                batch.copy_to(file.fd, begin)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(file.fd, self.size)
                raise
            self.index.apply(changes, begin)
            self.index.remember(identity, result)
            self.size = begin + batch.size

    def read(self, entry: Entry, at: int, size: int) -> bytes:
        """Return bytes of a value of the present index; with the lock held. OSError: somebody has cut the file."""
        data = os.pread(self.file.fd, size, entry.at + at) if self.file else b""
        if len(data) != size:
            raise OSError(errno.EIO, "its log has been cut")
        return data

    def covers(self, mark: Mark) -> bool:
        """Whether that state is among the first bytes of this log."""
        with self.lock:
            sizes = {self.origin.generation: self.origin.bytes, self.generation: self.size}
            return mark.bytes <= sizes.get(mark.generation, -1) or not mark.bytes

    def go_back(self, mark: Mark, pieces: Callable[[], Iterable[bytes | memoryview]]) -> None:
        """Become that state: from the own bytes if they have it, else from those given.

        Raises:
            CorruptError: they are not that state.
            StoreFullError: there is no room for it.
            StoreError, OSError: they cannot be had.
        """
        with self.lock:
            if mark == self.mark():
                return
            if not mark.bytes:
                self.remove()
                return
            if (own := self.file) is not None and self.covers(mark):
                with contextlib.suppress(CorruptError):  # a damaged disk: the checkpoint has it as well
                    self._rebuild(mark, Part(own, 0, mark.bytes).pieces)
                    return
            self._rebuild(mark, pieces)

    def _rebuild(self, mark: Mark, pieces: Callable[[], Iterable[bytes | memoryview]]) -> None:
        """Begin a generation with the bytes of `mark`."""
        with room_in(self.folder):
            generation, file = self.created()
            try:
                index = _filled(file.fd, mark, pieces)
            except BaseException:
                self.unlink(generation)
                raise
        self._become(generation, file, mark.bytes, index, mark)

    def adopt(self, generation: str, origin: Mark) -> bool:
        """Go on with the log that an earlier run on this machine has left; return whether there is one.

        It gets a name of its own: two machines may go on from the same one. Raises OSError.
        """
        with self.lock:
            try:
                fd = os.open(self._path(generation), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                return False
            file = Held(fd)
            index, end = load(fd, os.fstat(fd).st_size)
            if not end:
                return False
            os.ftruncate(fd, end)
            name = secrets.token_hex(8)
            self._path(generation).rename(self._path(name))
            self._become(name, file, end, index, origin if end == origin.bytes else Mark(generation, end))
            return True

    def replace(self, generation: str, file: Held, size: int, index: Index) -> None:
        """Become a compacted generation that `created` has begun; with the lock held."""
        self._become(generation, file, size, index, EMPTY)

    def created(self) -> tuple[str, Held]:
        """Return a new generation and its file. Raises OSError."""
        generation = secrets.token_hex(8)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        return generation, Held(os.open(self._path(generation), flags, 0o600))

    def remove(self) -> None:
        """Become empty."""
        with self.lock:
            self._become(secrets.token_hex(8), None, 0, Index(), EMPTY)

    def sync(self) -> None:
        """Have it survive the machine's end. Raises OSError."""
        if self.file:
            os.fsync(self.file.fd)

    def sweep(self) -> None:
        """Remove the files of all generations but this one: those of runs that were killed."""
        with contextlib.suppress(OSError):
            for path in self.folder.glob("*.log"):
                if path != self._path(self.generation):
                    path.unlink(missing_ok=True)

    def _become(self, generation: str, file: Held | None, size: int, index: Index, origin: Mark) -> None:
        old = self.generation
        self.generation, self.file, self.size, self.index, self.origin = generation, file, size, index, origin
        if old != generation:
            self.unlink(old)

    def _opened(self) -> Held:
        if self.file is None:
            self.generation, self.file = self.created()
        return self.file

    def unlink(self, generation: str) -> None:
        """Remove a generation's file, if it has one."""
        with contextlib.suppress(OSError):
            self._path(generation).unlink(missing_ok=True)

    def _path(self, generation: str) -> Path:
        return self.folder / f"{generation}.log"
