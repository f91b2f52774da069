"""A program that init has started inside a capsule, as the supervisor holds it."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Running:
    """A program started inside the capsule.

    Args:
        pid: its PID there.
        send: sends a signal to a PID there.
    """

    def __init__(self, pid: int, send: Callable[[int, int], None]) -> None:
        self.pid = pid
        self._send = send
        self._ended = threading.Event()
        self._status = 0

    def end(self, status: int) -> None:
        """Take the wait status."""
        self._status = status
        self._ended.set()

    def wait(self, timeout: float | None) -> int | None:
        """Return the exit code (negative: signal number), or None when `timeout` seconds pass first."""
        if not self._ended.wait(timeout):
            return None
        return os.waitstatus_to_exitcode(self._status)

    def kill(self) -> None:
        """End it, if it still runs, and whatever it left behind in its process group."""
        self._send(-self.pid, signal.SIGKILL)
