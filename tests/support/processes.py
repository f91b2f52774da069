"""Processes of tests: how long to wait for them, what they wrote, and that they die with the tests."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import psutil

PATIENCE = float(os.environ.get("CKPTRUN_TEST_PATIENCE", "60"))
"""Seconds until a wait is given up; a loaded machine needs many."""
POLL_SECONDS = 0.01

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it dies."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def started_with(variable: str) -> list[psutil.Process]:
    """Return every process that lives and whose environment had ``NAME=VALUE`` when it started."""
    return [process for process in psutil.process_iter() if _has(process, variable.encode())]


def _has(process: psutil.Process, variable: bytes) -> bool:
    try:
        environment = Path(f"/proc/{process.pid}/environ").read_bytes()
        return variable in environment.split(b"\0") and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, psutil.NoSuchProcess):
        return False


@dataclasses.dataclass(frozen=True)
class Result:
    """How a process ended, and what it wrote."""

    code: int
    stdout: bytes
    stderr: bytes

    @property
    def out(self) -> str:
        return self.stdout.decode("utf-8", "replace")

    @property
    def err(self) -> str:
        return self.stderr.decode("utf-8", "replace")

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


class Collector:
    """Reads a descriptor to its end in a thread."""

    def __init__(self, fd: int) -> None:
        self.data = bytearray()
        self._fd = fd
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # EIO is a terminal's end
            while data := os.read(self._fd, 65536):
                self.data += data

    def settle(self, timeout: float) -> None:
        """Wait a moment for what the writers had written before they ended."""
        self._thread.join(timeout)

    def end(self, timeout: float = PATIENCE) -> bytes:
        """Return everything, once the writers are gone."""
        self._thread.join(timeout)
        assert not self._thread.is_alive(), "somebody still holds the stream"
        return bytes(self.data)
