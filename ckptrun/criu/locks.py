"""File locks that the job held at a checkpoint and somebody else holds now: CRIU would wait for them without a word.

Called by the supervisor before a restore, when nothing of the job lives.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptrun.errors import UnfitError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ckptrun.core.model import Source
    from ckptrun.criu.images import ImageReader

PATIENCE_SECONDS = 5.0
"""How long a lock is waited for: a program that is about to end, or to release it."""
POLL_SECONDS = 0.1

_POSIX, _FLOCK, _OFD = 1, 2, 4
"""CRIU's kinds, bits of an entry's `flag`; leases are another."""
_F_OFD_GETLK = 36
_FLOCK_LAYOUT = "hhqqi4x"
"""struct flock of 64-bit Linux: type, whence, start, length, pid."""
_NAMES = {_FLOCK: ("FLOCK",), _POSIX: ("POSIX", "OFDLCK"), _OFD: ("POSIX", "OFDLCK")}
"""What can stand in a lock's way, in the kernel's words."""


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock that the job held.

    Args:
        path: of the file.
        kind: one of CRIU's.
        exclusive: as against shared.
        start: first byte; `_FLOCK` has the whole file.
        length: in bytes; 0: to the end, wherever that is.
    """

    path: str
    kind: int
    exclusive: bool
    start: int = 0
    length: int = 0

    def is_taken(self) -> bool:
        """Tell whether somebody else's lock is in the way now; False if that cannot be found out."""
        with contextlib.suppress(OSError):
            if not stat.S_ISREG(Path(self.path).stat().st_mode):
                return False
            fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                return self._is_refused(fd)
            finally:
                os.close(fd)
        return False

    def _is_refused(self, fd: int) -> bool:
        if self.kind == _FLOCK:
            try:  # there is no mere question; it is let go at once, and the restore would have taken it as well
                fcntl.flock(fd, (fcntl.LOCK_EX if self.exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            except OSError as error:
                return error.errno == errno.EWOULDBLOCK
            return False
        wanted = fcntl.F_WRLCK if self.exclusive else fcntl.F_RDLCK
        asked = struct.pack(_FLOCK_LAYOUT, wanted, os.SEEK_SET, self.start, self.length, 0)
        kind, *_ = struct.unpack(_FLOCK_LAYOUT, fcntl.fcntl(fd, _F_OFD_GETLK, asked))
        return bool(kind != fcntl.F_UNLCK)

    def holder(self) -> str:
        """Return who holds it, by PID and program, as far as that can be seen."""
        with contextlib.suppress(OSError):
            status = Path(self.path).stat()
            where = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
            for pid in _holders(where, _NAMES[self.kind]):
                with contextlib.suppress(OSError):
                    return f"process {pid} ({Path(f'/proc/{pid}/comm').read_text(errors='replace').strip()})"
        return "a process that this user cannot see"


def _holders(where: str, names: tuple[str, ...]) -> Iterator[int]:
    """Yield the processes that hold a descriptor with such a lock of a file."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                for descriptor in (process / "fdinfo").iterdir():
                    with contextlib.suppress(OSError):
                        if any(
                            words[:1] == ["lock:"] and words[2] in names and where in words
                            for words in map(str.split, descriptor.read_text().splitlines())
                        ):
                            yield int(process.name)


def locks_of(reader: ImageReader, images: Mapping[str, Source], private: str) -> tuple[Lock, ...]:
    """Return the locks on files that a checkpoint's images have.

    Args:
        reader: of the images.
        images: of the checkpoint.
        private: a folder that nobody else sees; files there are left out.
    """

    def entries(name: str, module: str, message: str) -> list[Any]:
        source = images.get(name)
        return [] if source is None else list(reader.entries(source.read(0, source.size), module, message))

    held = [
        entry
        for entry in entries("filelocks.img", "file_lock", "file_lock_entry")
        if entry.flag in _NAMES and entry.type in (fcntl.F_RDLCK, fcntl.F_WRLCK)
    ]
    if not held:
        return ()
    paths = {e.id: e.reg.name for e in entries("files.img", "fdinfo", "file_entry") if e.HasField("reg")}
    tables: dict[int, dict[int, int]] = {}
    for pid in {entry.pid for entry in held}:
        for ids in entries(f"ids-{pid}.img", "core", "task_kobj_ids_entry"):
            files = entries(f"fdinfo-{ids.files_id}.img", "fdinfo", "fdinfo_entry")
            tables[pid] = {file.fd: file.id for file in files}
    locks = (
        Lock(
            paths.get(tables.get(entry.pid, {}).get(entry.fd, -1), ""),
            entry.flag,
            entry.type == fcntl.F_WRLCK,
            entry.start,
            entry.len,
        )
        for entry in held
    )
    return tuple(
        lock for lock in locks if lock.path.startswith("/") and not lock.path.startswith(f"{private}/")
    )


def wait(locks: Iterable[Lock], note: Callable[[str], None]) -> None:
    """Return once nobody holds any of the locks; `note` takes a sentence if one has to be waited for.

    Raises:
        UnfitError: somebody still does after `PATIENCE_SECONDS`.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    waited_for = None
    for lock in locks:
        while lock.is_taken():
            if time.monotonic() > deadline:
                raise UnfitError(
                    f"{lock.path}, which the job had locked, is locked by {lock.holder()}",
                    hint="end that process or have it release the lock, then run the same command again",
                )
            if lock.path != waited_for:
                waited_for = lock.path
                note(f"waiting for the lock on {lock.path}, held by {lock.holder()}")
            time.sleep(POLL_SECONDS)
