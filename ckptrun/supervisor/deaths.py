"""Notices when processes of the job's end that hold something, by a pidfd for each: a PID may be given again.

Used by `sections`. It knows of no sections and no machine.
"""

from __future__ import annotations

import os
import select
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MOST = 512
"""Processes watched at a time, each by a descriptor; what others hold ends with its time."""


class _Process:
    """A process that is watched, and what is done when it ends."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.holds: dict[str, Callable[[], None]] = {}


class Deaths:
    """Calls, in a thread of its own, what is to be done when a process has ended. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._epoll: select.epoll | None = None
        self._wake = -1
        self._processes: dict[int, _Process] = {}
        self._pids: dict[int, int] = {}
        self._closed = False

    def watch(self, pid: int, name: str, then: Callable[[], None]) -> None:
        """Have `then` called once process `pid` has ended, unless `forget` is told `name` before.

        If it has ended already, `then` is called at once, by the caller's thread.
        """
        with self._lock:
            if self._closed or not self._known(pid):
                return
            found = self._processes.get(pid)
            if found is not None:
                found.holds[name] = then
                return
        then()

    def forget(self, pid: int, name: str) -> None:
        """Take note that process `pid` does not hold `name` any more."""
        with self._lock:
            found = self._processes.get(pid)
            if found is None:
                return
            found.holds.pop(name, None)
            if not found.holds:
                self._drop(pid)

    def close(self) -> None:
        """Notice nothing any more."""
        with self._lock:
            self._closed = True
            for pid in tuple(self._processes):
                self._drop(pid)
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def _known(self, pid: int) -> bool:
        """Have a process watched; whether it is known to live, or to have ended."""
        if pid in self._processes:
            return True
        if len(self._processes) >= MOST:
            return False
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        self._started().register(fd, select.EPOLLIN)
        self._processes[pid], self._pids[fd] = _Process(fd), pid
        return True

    def _started(self) -> select.epoll:
        if self._epoll is None:
            self._epoll = select.epoll()
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._epoll.register(self._wake, select.EPOLLIN)
            threading.Thread(target=self._serve, args=(self._epoll,), name="deaths", daemon=True).start()
        return self._epoll

    def _drop(self, pid: int) -> None:
        found = self._processes.pop(pid)
        del self._pids[found.fd]
        if self._epoll is not None:
            self._epoll.unregister(found.fd)  # a child between fork and exec would keep it there
        os.close(found.fd)

    def _serve(self, epoll: select.epoll) -> None:
        while not self._closed:
            for fd, _ in epoll.poll():
                for then in self._ended(fd):
                    then()
        with self._lock:
            epoll.close()
            os.close(self._wake)
            self._wake = -1

    def _ended(self, fd: int) -> list[Callable[[], None]]:
        """Return what is to be done if the process of a descriptor has ended; it may be another's by now."""
        with self._lock:
            pid = self._pids.get(fd)
            if pid is None or not _readable(fd):
                return []
            thens = list(self._processes[pid].holds.values())
            self._drop(pid)
            return thens


def _readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
