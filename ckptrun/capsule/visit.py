"""Runs functions where another process sees its files: in a copy of its mount namespace, as its user for new files.

Called by the supervisor of a job that lives in another container: what looks at the job's files must find them under
the job's own paths, symlinks and all. A visit is a thread of its own; whoever asked for it waits meanwhile, and does
what the visit wants done `home`: whatever needs the files of this process's own image, as a store does.

The other side is not trusted. Nothing that lies there may become code of this process, so a visit imports nothing.
"""

from __future__ import annotations

import ctypes
import os
import queue
import sys
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ckptrun.capsule.fsrights import make_files_as

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ckptrun.capsule.spec import Identity
    from ckptrun.core.model import Source

T = TypeVar("T")

_CLONE_NEWNS, _CLONE_FS = 0x20000, 0x200
_OPEN_TREE, _MOVE_MOUNT = 428, 429
_AT_FDCWD, _OPEN_TREE_CLONE, _AT_RECURSIVE, _FROM_EMPTY_PATH = -100, 1, 0x8000, 4
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18

_libc = ctypes.CDLL(None, use_errno=True)
_local = threading.local()


class Place(Protocol):
    """Where functions are run."""

    def __call__(self, work: Callable[[], T], /) -> T:
        """Run a function there; return what it returns, raise what it raises."""


def here(work: Callable[[], T], /) -> T:
    """Run a function where we are: a job that shares our files."""
    return work()


def home(work: Callable[[], T]) -> T:
    """Run a function at home, in the thread that waits for this visit; at home, just run it."""
    asked: queue.SimpleQueue[Callable[[], None]] | None = getattr(_local, "asked", None)
    if asked is None:
        return work()
    done: Future[T] = Future()
    asked.put(lambda: _settle(done, work))
    return done.result()


@dataclass(frozen=True, slots=True)
class AtHome:
    """A source that is read at home, for a visit to use."""

    source: Source

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.source.size

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """See `Source.read`."""
        return home(lambda: self.source.read(offset, length))

    def pieces(self) -> Iterator[bytes | memoryview]:
        """See `Source.pieces`."""
        pieces = home(lambda: iter(self.source.pieces()))
        while (piece := home(lambda: next(pieces, None))) is not None:
            yield piece


class Visits:
    """Visits to one process's files; any thread.

    Args:
        pid: of the process; it may end while visits go on.
        shared: a folder both sides have at the same path; on a visit it is what it is at home, writable too.
        identity: who owns what is made there; None: as whoever this process runs as.

    Raises:
        OSError: its namespace cannot be entered.
    """

    def __init__(self, pid: int, shared: Path, identity: Identity | None) -> None:
        self._shared = os.fsencode(shared)
        self._identity = identity
        self._namespace = -1
        _guard()
        namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._namespace = self._run(lambda: self._copied(namespace), lambda: None)
        finally:
            os.close(namespace)

    def __call__(self, work: Callable[[], T], /) -> T:
        """Run a function there; on a visit already, just run it."""
        return work() if _visiting() else self._run(work, self._enter)

    def close(self) -> None:
        """Let the namespace go: volumes in it can be unmounted."""
        if self._namespace >= 0:
            os.close(self._namespace)
            self._namespace = -1

    def _run(self, work: Callable[[], T], enter: Callable[[], None]) -> T:
        asked: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        done: Future[T] = Future()

        def visit() -> None:
            _local.asked = asked
            try:
                _settle(done, lambda: _then(enter, work))
            finally:
                asked.put(None)

        threading.Thread(target=visit, name="visit", daemon=True).start()
        while (wish := asked.get()) is not None:
            wish()
        return done.result()

    def _copied(self, namespace: int) -> int:
        """Make the copy, with our own shared folder in it, and return its descriptor."""
        _unshare(_CLONE_FS)
        own = os.open("/proc/thread-self/ns", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            flags = _OPEN_TREE_CLONE | _AT_RECURSIVE | os.O_CLOEXEC
            folder = _call("open_tree", _libc.syscall(_OPEN_TREE, _AT_FDCWD, self._shared, flags))
            try:
                _setns(namespace)
                _unshare(_CLONE_NEWNS)
                _call("mount", _libc.mount(b"", b"/", None, _MS_REC | _MS_PRIVATE, None))
                moved = _libc.syscall(_MOVE_MOUNT, folder, b"", _AT_FDCWD, self._shared, _FROM_EMPTY_PATH)
                _call("move_mount", moved)
            finally:
                os.close(folder)
            return os.open("mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=own)
        finally:
            os.close(own)

    def _enter(self) -> None:
        _unshare(_CLONE_FS)
        _setns(self._namespace)
        if self._identity is not None:
            make_files_as(self._identity.uid, self._identity.gid, self._identity.groups)


def _then(enter: Callable[[], None], work: Callable[[], T]) -> T:
    enter()
    return work()


def _settle(done: Future[T], work: Callable[[], T]) -> None:
    try:
        done.set_result(work())
    except BaseException as error:  # noqa: BLE001 - it belongs to the thread that waits
        done.set_exception(error)


def _visiting() -> bool:
    return getattr(_local, "asked", None) is not None


def _unshare(flags: int) -> None:
    _call("unshare", _libc.unshare(flags))


def _setns(fd: int) -> None:
    _call("setns", _libc.setns(fd, _CLONE_NEWNS))


def _call(what: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


class _Guard:
    """Finds no module for a visit, and says so: it would be the other side's."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:  # noqa: ARG002 - the protocol's
        if _visiting():
            raise ImportError(f"{name} would be imported on a visit; import it before")


_GUARD = _Guard()


def _guard() -> None:
    if _GUARD not in sys.meta_path:
        sys.meta_path.insert(0, _GUARD)
