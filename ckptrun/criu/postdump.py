"""The one moment at which a dump may end: CRIU's post-dump action asks, with the job stopped, and is answered here.

Used by `dumping` only. The static helper is the action: it connects, says that CRIU is done, and waits for a letter. It
is told yes when every byte has been read and the caller's work inside the freeze is done, and no as soon as anything
is wrong or the time is up. Either way the job runs on; after a no CRIU fails.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING

from ckptrun.criu.stream import listen

if TYPE_CHECKING:
    from pathlib import Path

    from ckptrun.criu.capture import Capture
    from ckptrun.criu.dumping import DumpRequest

ACTION_SOCKET = "action.sock"


class PostDump:
    """Answers CRIU's post-dump action: yes, when all is read and the caller's work inside the freeze is done."""

    def __init__(self, folder: Path, capture: Capture, request: DumpRequest) -> None:
        self.granted = False
        self.late = False
        self._failure: Exception | None = None
        self._capture = capture
        self._request = request
        self._started = time.monotonic()
        self._reading = True
        self._lock = threading.Lock()
        self._answered = False
        self._connection: socket.socket | None = None
        # The folder is private; the action may run as the job's user.
        self._listener = listen(folder / ACTION_SOCKET, 0o666)
        self._thread = threading.Thread(target=self._run, name="post-dump", daemon=True)

    @property
    def error(self) -> Exception | None:
        """What went wrong on this side."""
        return self._failure or self._capture.error

    def deadline(self) -> float:
        """Return until when the job may be stopped, as far as it is known yet."""
        begun = self._capture.connected or self._started
        return begun + self._request.max_freeze + (0.0 if self._reading else self._request.hold)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def refuse(self) -> None:
        """Say no, now or when asked, and break CRIU's pipes: the time is up."""
        if self._answer(b"n"):
            self.late = True
        self._capture.close()

    def close(self) -> None:
        """Return when nothing of the caller's runs any more."""
        self._answer(b"n")
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        if self._thread.ident is not None:
            self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        with connection:
            connection.recv(64)  # closing with something unread would take the answer back
            with self._lock:
                self._connection, refused = connection, self._answered
            if refused:
                _send(connection, b"n")
            else:
                self._answer(b"y" if self._grant() else b"n")

    def _answer(self, letter: bytes) -> bool:
        """Give the one answer; False if it was given before."""
        with self._lock:
            if self._answered:
                return False
            self._answered = True
            if self._connection is not None:
                self.granted = _send(self._connection, letter) and letter == b"y"
            return True

    def _grant(self) -> bool:
        try:
            if not self._capture.wait(max(self.deadline() - time.monotonic(), 0.0)):
                self.late = self.deadline() <= time.monotonic()
                return False
            self._reading = False
            self._request.frozen(self._capture.images)
        except Exception as error:  # noqa: BLE001 - whatever it is, the job must be thawed
            self._failure = error
            return False
        return True


def _send(connection: socket.socket, letter: bytes) -> bool:
    with contextlib.suppress(OSError):
        return connection.send(letter) == 1
    return False
