"""How the capture sees the files of a job: through its root, and with the rights of the job's user.

ckptrun may have more rights than the job: root with ``--user``, a sidecar. Whoever can swap a folder for a symlink
while files are looked for could else have somebody else's file read into a checkpoint. So every path is followed with
the rights of the job's user, and the kernel decides, in the call itself. A file is read with more rights only if it is
proven to be the job's: held open for writing by the job, or owned by its user, who could change its mode.
"""

# Names are strings with surrogates here, next to descriptors and raw calls; Path would add nothing.
# ruff: noqa: PTH115

from __future__ import annotations

import errno
import os
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ckptrun.journal.contents import xattrs_of
from ckptrun.journal.trees import resolve, walk

if TYPE_CHECKING:
    from collections.abc import Container, Iterator
    from contextlib import AbstractContextManager

    from ckptrun.journal.candidates import Candidate
    from ckptrun.journal.trees import Entry

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NAME = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class User(Protocol):
    """The user that a job runs as; called: a context in which this thread has that user's rights to files, no more."""

    @property
    def uid(self) -> int:
        """The user's id."""

    def __call__(self) -> AbstractContextManager[None]:
        """Return such a context. Entering it raises OSError."""


@dataclass(frozen=True, slots=True)
class Sight:
    """The files of one job.

    Args:
        root: prefix through which the job's paths are reached.
        user: whose rights count; None: our own, which are the job's too.
    """

    root: str
    user: User | None = None

    def full(self, path: str) -> str:
        """Return a path of the job's as we reach it."""
        return path if self.root == "/" else self.root + path

    def lstat(self, path: str) -> os.stat_result:
        """Return what stands at a path. Raises OSError."""
        with self._modest():
            return os.lstat(self.full(path))

    def readlink(self, path: str) -> str:
        """Return where a symlink leads. Raises OSError."""
        with self._modest():
            return os.readlink(self.full(path))

    def xattrs(self, path: str) -> tuple[tuple[str, bytes], ...]:
        """Return the extended attributes of what stands at a path. Raises OSError."""
        with self._modest():
            return xattrs_of(self.full(path))

    def resolve(self, path: str) -> str:
        """See `trees.resolve`."""
        with self._modest():
            return resolve(self.root, path)

    def walk(self, top: str, stop: Container[str], unread: list[str]) -> Iterator[Entry]:
        """See `trees.walk`."""
        return walk(self.root, top, stop, unread, self._modest)

    @contextmanager
    def open(self, file: Candidate) -> Iterator[int]:
        """Give a descriptor for reading of the very file that a candidate's status was taken of.

        Raises:
            OSError: it cannot be opened; ESTALE: another file has this name now.
        """
        fd = self._open(file)
        try:
            if not os.path.samestat(os.fstat(fd), file.status):
                raise OSError(errno.ESTALE, "another file has this name now", file.path)
            yield fd
        finally:
            os.close(fd)

    def _open(self, file: Candidate) -> int:
        full = self.full(file.path)
        try:
            with self._modest():
                return os.open(full, _READ)
        except PermissionError:
            if self.user is None or not (file.held or self._owns(self.user, file)):
                raise
        name = os.open(full, _NAME)  # opens nothing yet: whatever it leads to may be a device, or a pipe
        try:
            if not os.path.samestat(os.fstat(name), file.status):
                raise OSError(errno.ESTALE, "another file has this name now", file.path)
            return os.open(f"/proc/self/fd/{name}", _READ & ~os.O_NOFOLLOW)
        finally:
            os.close(name)

    def _owns(self, user: User, file: Candidate) -> bool:
        """Say whether a file is the user's own, where that user can come."""
        return file.status.st_uid == user.uid and os.path.samestat(self.lstat(file.path), file.status)

    def _modest(self) -> AbstractContextManager[None]:
        return nullcontext() if self.user is None else self.user()
