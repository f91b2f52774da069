"""What happened to a run, one JSON object a line: written by the supervisor, read by ``ckptrun events``.

Append-only and best effort: an event that cannot be written never disturbs the run, and a line torn by a
crash or a full disk is skipped by the reader. Times are RFC 3339 in UTC.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FILE_NAME = "events.jsonl"
"""In the run's directory."""

POLL_SECONDS = 0.2


def rfc3339(seconds: float) -> str:
    """Return seconds since the epoch as ``2026-03-01T12:00:00.250Z``."""
    moment = dt.datetime.fromtimestamp(seconds, dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class EventLog:
    """Appends events to a file. Thread-safe; never raises once made.

    Args:
        path: the file; made with mode 0600, its directory must exist.
        clock: seconds since the epoch.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._whole = self._ends_with_newline()
        self._observers: list[Callable[[dict[str, Any]], None]] = []
        self.lost = 0

    def observe(self, take: Callable[[dict[str, Any]], None]) -> None:
        """Have ``take`` told of every event from now on, in any thread: it must neither block nor raise."""
        self._observers.append(take)

    def emit(self, event: str, **fields: Any) -> None:
        """Append one event; ``fields`` are JSON values or become strings."""
        told = {"time": rfc3339(self._clock()), "event": event, **fields}
        line = json.dumps(told, default=str) + "\n"
        with self._lock:
            data = line.encode() if self._whole else b"\n" + line.encode()
            try:
                written = os.write(self._fd, data)
            except OSError:  # disk full, most likely: the run is worth more than its diary
                self.lost += 1
            else:
                self._whole = written == len(data)
                self.lost += not self._whole
        for take in self._observers:
            take(told)

    def close(self) -> None:
        """Close the file; later events are lost, silently."""
        with self._lock, contextlib.suppress(OSError):
            os.close(self._fd)
            self._fd = -1

    def _ends_with_newline(self) -> bool:
        size = os.fstat(self._fd).st_size
        return size == 0 or os.pread(self._fd, 1, size - 1) == b"\n"


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the events written so far, oldest first; none if there is no file."""
    try:
        with path.open("rb") as file:
            for line in file:
                if (event := _parse(line)) is not None:
                    yield event
    except FileNotFoundError:
        return


def follow_events(
    path: Path,
    live: Callable[[], bool],
    *,
    poll: float = POLL_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[dict[str, Any]]:
    """Yield the events so far and then new ones as they come, until the run is over.

    Args:
        path: the file; may appear later.
        live: whether the run still lives; asked before each look.
        poll: seconds between looks.
        sleep: how to wait.
    """
    position = 0
    while True:
        alive = live()  # asked before reading: what a run wrote before it ended is read after it
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            file.seek(position)
            for line in file:
                if not line.endswith(b"\n") and alive:
                    break  # the rest of this line is still to come
                position += len(line)
                if (event := _parse(line)) is not None:
                    yield event
        if not alive:
            return
        sleep(poll)


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return the event of a line, or None for a torn or foreign one."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None
