"""A lock that dies with its holder: by it a run knows that earlier ones of its state directory have ended.

A holder's PID says nothing in another PID namespace, which every container has: a container that a kubelet starts again
would wait out the lease of the one before, which shares its volumes. Neither a pod's uid nor a container's name proves
that anybody is dead: two containers can be given the same. The kernel does: who gets the lock on a file knows that
each run that once had it, *of this very file*, is gone with all its threads.

What is proven, and by what:

- Before a run's session stands in HEAD, it stands in the file, written under the lock. The descriptor is never closed.
- The file is the same: a line counts only if it names the boot, device and inode that the file has now. A live
  holder keeps its inode from being used again, and a copy (of a folder, of a container's image) has another.
- The lock means something: only filesystems of this kernel's count. A file server may forget locks, a virtual machine
  or a layered filesystem have their own.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

FILE_NAME = "alive"
_KEPT = 32
"""Sessions kept: HEAD names the last one that took the lineage; some since may not have come so far."""
_LIMIT = 1 << 16
_SESSION = re.compile(r"[0-9a-z]{1,64}")

_LOCAL = frozenset({0xEF53, 0x58465342, 0x9123683E, 0x01021994, 0xF2F52010, 0x2FC12FC1})
"""ext2 to ext4, xfs, btrfs, tmpfs, f2fs, zfs: ``statfs(2)``."""

_libc = ctypes.CDLL(None, use_errno=True)


class LifeLock:
    """The lock of one run, from now until this process ends.

    Args:
        folder: the lineage's, in the state directory.
        boot_id: the kernel's.
    """

    def __init__(self, folder: Path, boot_id: str) -> None:
        self._fd = _locked(folder / FILE_NAME)
        self.gone: frozenset[str] = frozenset()
        """The sessions of this boot that had the lock before, and are dead."""
        if self._fd >= 0:
            status = os.fstat(self._fd)
            self._mark = f"{boot_id} {status.st_dev} {status.st_ino} "
            lines = os.pread(self._fd, _LIMIT, 0).decode("ascii", "replace").splitlines()
            said = [line.removeprefix(self._mark) for line in lines if line.startswith(self._mark)]
            self._sessions = [session for session in said if _SESSION.fullmatch(session)]
            self.gone = frozenset(self._sessions)

    def enter(self, session: str) -> None:
        """Write down that a session of this process has the lock, before it takes the lineage."""
        if self._fd < 0:
            return
        self._sessions = [*self._sessions, session][-_KEPT:]
        data = "".join(f"{self._mark}{session}\n" for session in self._sessions).encode("ascii")
        with suppress(OSError):  # on a full disk the next run waits
            os.pwrite(self._fd, data, 0)
            os.ftruncate(self._fd, len(data))


def _locked(path: Path) -> int:
    """Return a descriptor that holds the lock, never to be closed; -1 if it cannot be had, or would prove nothing."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        return -1
    try:
        if _kind_of_filesystem(fd) in _LOCAL:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
    except OSError:
        pass
    os.close(fd)
    return -1


def _kind_of_filesystem(fd: int) -> int:
    answer = (ctypes.c_long * 64)()
    return -1 if _libc.fstatfs(fd, answer) else int(answer[0])
