"""The log of what the job did to files since its checkpoints, on this machine: what a rollback must know.

A folder of the run's state directory: ``N.log``, for each incarnation the kernel's own events as init wrote them, and
``marks.jsonl``: at which byte of which log the files were those of which checkpoint. Nothing is synced: after a
crash of the machine the records of the checkpoint must do.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from ckptrun.journal.fanotify import parse

if TYPE_CHECKING:
    from pathlib import Path

    from ckptrun.journal.fanotify import Event

KEPT_LOGS = 32
"""Logs kept: of the newest incarnations."""
KEPT_MARKS = 256
END_SECONDS = 20.0
"""What is left of a capsule whose supervisor was killed is gone within this time: its init holds a lock on its log."""


class Trail:
    """The log of one run.

    Args:
        folder: made if missing, 0700.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._marks = folder / "marks.jsonl"
        self._number = 0
        self._size = 0

    def begin(self) -> int:
        """Begin the log of a new incarnation; return its descriptor, which init writes to. Raises OSError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        numbers = self._numbers()
        self._number = max(numbers, default=0) + 1
        for old in numbers[:-KEPT_LOGS]:
            self._log(old).unlink(missing_ok=True)
        self._size = 0
        fd = os.open(self._log(self._number), os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_SH)  # of the open file: it ends with the last process that has it
        return fd

    def go_on(self) -> int:
        """Go on with the newest log, of an incarnation that has outlived its supervisor; return its descriptor.

        Raises:
            OSError: it cannot be written, or there is none.
        """
        self._number, self._size = max(self._numbers(), default=0), 0
        fd = os.open(self._log(self._number), os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
        except OSError:
            os.close(fd)
            raise
        return fd

    def news(self) -> bytes:
        """Return what was written since the last call. Raises OSError."""
        with self._log(self._number).open("rb") as file:
            file.seek(self._size)
            data = file.read()
        self._size += len(data)
        return data

    def mark(self, checkpoint: str) -> None:
        """Say that the files as of what `news` has returned are those of a checkpoint. Raises OSError."""
        line = json.dumps({"checkpoint": checkpoint, "log": self._number, "offset": self._size})
        with self._marks.open("a", encoding="ascii") as file:
            file.write(line + "\n")

    def since(self, checkpoint: str) -> list[Event]:
        """Return what the job has done since a checkpoint; nothing if that is not known here.

        Waits until everything that could still write has ended. Raises OSError.
        """
        marks = self._read_marks()
        moment = next((mark for mark in reversed(marks) if mark[0] == checkpoint), None)
        if moment is None:
            return []
        _, first, offset = moment
        events: list[Event] = []
        for number in self._numbers():
            if number < first:
                continue
            with self._log(number).open("rb") as file:
                _wait_for(file.fileno())
                file.seek(offset if number == first else 0)
                events += parse(file.read())
        return events

    def _read_marks(self) -> list[tuple[str, int, int]]:
        marks = []
        with suppress(FileNotFoundError):
            for line in self._marks.read_text(encoding="ascii").splitlines()[-KEPT_MARKS:]:
                with suppress(ValueError, KeyError, TypeError):
                    value = json.loads(line)
                    marks.append((str(value["checkpoint"]), int(value["log"]), int(value["offset"])))
        return marks

    def _numbers(self) -> list[int]:
        return sorted(int(path.stem) for path in self._folder.glob("*.log"))

    def _log(self, number: int) -> Path:
        return self._folder / f"{number}.log"


def _wait_for(fd: int) -> None:
    """Wait until no capsule writes a log any more."""
    deadline = time.monotonic() + END_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
