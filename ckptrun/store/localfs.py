"""A directory as a store. Made by `open_backend`.

An object appears whole or not at all: it is written beside its place, synced, and linked to its name, which fails if
the name is taken. The mutable object is a row of numbered generations, ``HEAD.1``, ``HEAD.2``, …, each linked once:
who links the next number first has won. Files are 0600, folders 0700.

It must not know what the objects mean.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from typing import TYPE_CHECKING

from ckptrun.errors import (
    PreconditionError,
    StoreError,
    StoreFullError,
    StoreRefusedError,
    StoreUnreachableError,
)
from ckptrun.store.backend import MissingError, Versioned

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

KEPT_GENERATIONS = 8
"""Older ones of a mutable object are removed."""
FOLDER_TRIES = 100
"""Times that a folder is made anew for one write."""
STALE_SECONDS = 600.0
"""An unfinished write this old belongs to a process that is gone."""
_TEMPORARY = ".tmp-"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.EOPNOTSUPP,
}


class LocalBackend:
    """Objects in a directory; see `Backend`.

    Args:
        root: the store's directory; `prepare` makes it.
        url: as the user named it.
    """

    def __init__(self, root: Path, url: str) -> None:
        self._root = root
        self._url = url

    @property
    def url(self) -> str:
        """The store as the user named it."""
        return self._url

    def where(self, name: str) -> str:
        """Return the path of an object."""
        return str(self._root / name)

    def prepare(self) -> None:
        """Make the directory."""
        with self._errors("make", self._root):
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def put_if_absent(self, name: str, *pieces: bytes | memoryview) -> None:
        """Create an object; see `Backend`."""
        path = self._root / name
        with self._errors("write", path):
            self._link(path, pieces)

    def get(self, name: str) -> bytes:
        """Return a whole object; see `Backend`."""
        path = self._root / name
        with self._errors("read", path):
            return path.read_bytes()

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Return bytes of an object; see `Backend`."""
        path = self._root / name
        with self._errors("read", path):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.pread(fd, length, offset)
            finally:
                os.close(fd)

    def delete(self, name: str) -> None:
        """Remove an object; see `Backend`."""
        path = self._root / name
        with self._errors("delete", path):
            path.unlink(missing_ok=True)

    def names(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield names and sizes; see `Backend`."""
        folder = self._root / prefix
        with (
            self._errors("list", folder),
            contextlib.suppress(FileNotFoundError),
            os.scandir(folder) as entries,
        ):
            for entry in entries:
                if entry.is_file(follow_symlinks=False) and not entry.name.startswith(_TEMPORARY):
                    yield f"{prefix}/{entry.name}", entry.stat(follow_symlinks=False).st_size

    def folders(self) -> Iterator[str]:
        """Yield the root's folders; see `Backend`."""
        with (
            self._errors("list", self._root),
            contextlib.suppress(FileNotFoundError),
            os.scandir(self._root) as entries,
        ):
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield entry.name

    def read(self, name: str) -> Iterator[Versioned]:
        """Yield the generations, newest first; see `Backend`."""
        path = self._root / name
        while True:
            generations = self._generations(path)
            try:
                with self._errors("read", path):
                    newest = _numbered(path, generations[-1]).read_bytes() if generations else b""
            except MissingError:
                continue  # a writer was so much faster that it is already gone: look again
            break
        for number in reversed(generations):
            try:
                with self._errors("read", path):
                    data = newest if number == generations[-1] else _numbered(path, number).read_bytes()
            except MissingError:
                return
            yield Versioned(data, str(generations[-1]))

    def replace(self, name: str, data: bytes, expected: str | None) -> str:
        """Link the generation after ``expected``; see `Backend`."""
        path = self._root / name
        number = int(expected or 0) + 1
        with self._errors("write", path):
            generations = self._generations(path)
            if generations and generations[-1] >= number:
                raise PreconditionError(f"{_numbered(path, number)} was written by someone else")
            self._link(_numbered(path, number), (data,))
            generations = self._generations(path)
            if generations[-1] != number:  # ours filled a gap below the newest, left by removed ones
                _numbered(path, number).unlink(missing_ok=True)
                raise PreconditionError(f"{_numbered(path, number)} was written by someone else")
        for old in generations[:-KEPT_GENERATIONS]:
            with contextlib.suppress(OSError):
                _numbered(path, old).unlink()
        return str(number)

    def discard(self, name: str) -> None:
        """Remove all generations; see `Backend`."""
        path = self._root / name
        with self._errors("delete", path):
            for number in self._generations(path):
                _numbered(path, number).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                path.parent.rmdir()

    def sweep(self, folder: str) -> None:
        """Remove unfinished writes that are old; see `Backend`."""
        now = time.time()
        for path in (self._root / folder).glob(f"**/{_TEMPORARY}*"):
            with contextlib.suppress(OSError):
                if now - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()

    def _generations(self, path: Path) -> list[int]:
        try:
            with self._errors("list", path.parent):
                names = [entry.name for entry in path.parent.iterdir()]
        except MissingError:
            return []
        prefix = f"{path.name}."
        return sorted(
            int(n[len(prefix) :]) for n in names if n.startswith(prefix) and n[len(prefix) :].isdecimal()
        )

    def _link(self, path: Path, pieces: Iterable[bytes | memoryview]) -> None:
        temporary, fd = self._begin(path.parent)
        try:
            try:
                for piece in pieces:
                    left = memoryview(piece)
                    while left:
                        left = left[os.write(fd, left) :]
                os.fsync(fd)
            finally:
                os.close(fd)
            os.link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)

    def _begin(self, folder: Path) -> tuple[Path, int]:
        """Make a folder, unless it is there, and a file in it; meanwhile another writer may remove it as empty."""
        temporary = folder / f"{_TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        for _ in range(FOLDER_TRIES):
            self._make_folder(folder)
            with contextlib.suppress(FileNotFoundError):
                return temporary, os.open(temporary, flags, 0o600)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))

    def _make_folder(self, folder: Path) -> None:
        if folder.is_dir():
            return
        if folder not in {self._root, folder.parent}:
            self._make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        _sync_folder(folder.parent)

    @contextlib.contextmanager
    def _errors(self, verb: str, path: Path) -> Iterator[None]:
        try:
            yield
        except FileExistsError as error:
            raise PreconditionError(f"cannot {verb} {path}: it exists already") from error
        except FileNotFoundError as error:
            if verb == "list":
                raise MissingError(f"{path} is not there") from error
            raise MissingError(f"cannot {verb} {path}: it is not there") from error
        except OSError as error:
            raise self._translated(verb, path, error) from error

    def _translated(self, verb: str, path: Path, error: OSError) -> StoreError:
        cause = f"cannot {verb} {path} in store {self._url}: {error.strerror}"
        if error.errno in _FULL:
            return StoreFullError(
                cause, hint="make room, keep fewer checkpoints (--keep) or use another --store"
            )
        if error.errno in _REFUSED:
            return StoreRefusedError(
                cause, hint="make the directory writable for this user or use another --store"
            )
        return StoreUnreachableError(cause, hint="check the disk or the mount, or use another --store")


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
