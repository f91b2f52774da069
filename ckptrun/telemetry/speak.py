"""ckptrun's voice: lines on stderr, each prefixed ``ckptrun:``, little by default.

stdout belongs to the job alone; stderr is shared with it. So a line is one write, never raises, and never
blocks for long: a reader that went away, a full pipe or a terminal held with Ctrl-S costs a line, no more.
"""

from __future__ import annotations

import contextlib
import enum
import json
import logging
import os
import select
import threading
import time
from typing import TYPE_CHECKING, Any

from ckptrun.telemetry.events import rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable

PREFIX = "ckptrun: "

PATIENCE_SECONDS = 0.5
"""How long the first line that does not fit waits; while none fits, the next ones do not wait."""

_PIECE = 4096
"""PIPE_BUF: a writable pipe takes this many bytes at once, without blocking."""

_CONTROL = {
    code: f"\\x{code:02x}" for code in (*range(0x20), 0x7F, *range(0x80, 0xA0)) if code not in (9, 10)
}
"""Names of jobs and files must not move the cursor of whoever reads about them."""


class Level(enum.IntEnum):
    """How much a line matters; a speaker says those at or above its own level."""

    DETAIL = 0
    NORMAL = 1
    ERROR = 2


class Speaker:
    """Writes lines to a file descriptor. Thread-safe.

    Args:
        verbosity: below 0 only errors, 0 normal lines too, above 0 everything.
        as_json: one JSON object a line (``time, level, message`` and the fields) in place of text.
        fd: where to; stderr unless told.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        verbosity: int = 0,
        *,
        as_json: bool = False,
        fd: int = 2,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._threshold = Level.ERROR if verbosity < 0 else Level.DETAIL if verbosity > 0 else Level.NORMAL
        self._as_json = as_json
        self._fd = fd
        self._clock = clock
        self._lock = threading.Lock()
        self._stuck = False
        self.raw = False
        """Whether the terminal is in raw mode, where a line feed alone does not return to column one."""
        self.lost = 0
        """Lines that nobody could read."""

    def error(self, message: str, **fields: Any) -> None:
        """Say what went wrong; also when quiet."""
        self.line(Level.ERROR, message, **fields)

    def say(self, message: str, **fields: Any) -> None:
        """Say what the user should know."""
        self.line(Level.NORMAL, message, **fields)

    def detail(self, message: str, **fields: Any) -> None:
        """Say what only a curious user wants to know."""
        self.line(Level.DETAIL, message, **fields)

    def line(self, level: Level, message: str, **fields: Any) -> None:
        """Say ``message``; ``fields`` show in the JSON format only."""
        if level < self._threshold:
            return
        if self._as_json:
            document = {"time": rfc3339(self._clock()), "level": level.name.lower(), "message": message}
            text = json.dumps({**document, **fields}, default=str)
        else:
            text = "\n".join(PREFIX + part for part in message.translate(_CONTROL).splitlines() or [""])
        with self._lock:
            self._write(text)

    def _write(self, text: str) -> None:
        end = "\r\n" if self.raw else "\n"
        data = (text.replace("\n", end) + end).encode("utf-8", "backslashreplace")
        if self.raw:
            data = b"\r" + data
        with contextlib.suppress(OSError, ValueError):
            while data:
                if not self._writable():
                    break
                data = data[os.write(self._fd, data[:_PIECE]) :]
        self._stuck = bool(data)
        self.lost += self._stuck

    def _writable(self) -> bool:
        poller = select.poll()
        poller.register(self._fd, select.POLLOUT)
        ready = poller.poll(0 if self._stuck else PATIENCE_SECONDS * 1000)
        return any(event & select.POLLOUT for _, event in ready)


class _Logs(logging.Handler):
    """Says what modules that know no speaker have logged."""

    def __init__(self, speaker: Speaker) -> None:
        super().__init__(logging.INFO)
        self._speaker = speaker

    def emit(self, record: logging.LogRecord) -> None:
        level = Level.NORMAL if record.levelno >= logging.WARNING else Level.DETAIL
        self._speaker.line(level, record.getMessage())


def say_logs(speaker: Speaker) -> None:
    """Have ``speaker`` say what the package logs from now on, in place of whoever did: warnings, with -v all."""
    logger = logging.getLogger("ckptrun")
    logger.handlers[:] = [_Logs(speaker)]
    logger.setLevel(logging.INFO)
    logger.propagate = False
