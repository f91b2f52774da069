"""Drains one dump into staging, by the protocol of `stream`.

Facts that matter here:

* The pages in a pipe are the job's LIVE pages. Until every pipe has reached its end the tree must stay stopped;
  `Capture.wait` says when that is. CRIU closes the socket later, so its end says nothing.
* If the reader stops reading while CRIU is dumping, CRIU blocks with the job frozen. So whatever happens to the
  reader, it closes every descriptor on its way out: CRIU gets a broken pipe, fails, and thaws.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from typing import TYPE_CHECKING

from ckptrun.criu.staging import Extents, Slot
from ckptrun.criu.stream import Stop, listen, read_request, receive_fd, widen
from ckptrun.errors import CkptrunError, DumpError

if TYPE_CHECKING:
    from pathlib import Path

CAPTURE_SOCKET = "streamer-capture.sock"
LAST_IMAGE = "inventory.img"
"""CRIU writes it last."""


class Capture:
    """Receives one dump into a slot. `start` before CRIU is started; `wait` from the post-dump action's handler."""

    def __init__(self, folder: Path, slot: Slot) -> None:
        self.images: dict[str, Extents] = {}
        self.error: Exception | None = None
        self.connected: float | None = None
        """When CRIU connected, shortly before it stops the first task; monotonic clock."""
        self._slot = slot
        self._whole = False
        self._settled = threading.Event()
        self._stop = Stop()
        self._listener = listen(folder / CAPTURE_SOCKET)
        self._socket: socket.socket | None = None
        self._open: dict[int, Extents] = {}
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)

    def start(self) -> None:
        """Begin to listen and to read."""
        self._thread.start()

    def wait(self, timeout: float) -> bool:
        """Wait until the last image and every announced pipe have reached their ends; False if that fails."""
        self._settled.wait(timeout)
        return self._whole and self.error is None

    def close(self) -> None:
        """End the reading, whatever its state; CRIU, if still writing, gets a broken pipe. May be called again."""
        self._stop.set()
        if self._socket:
            with contextlib.suppress(OSError):  # the reader may be waiting for the rest of a message
                self._socket.shutdown(socket.SHUT_RDWR)
        if self._thread.ident is not None:
            self._thread.join()
        self._listener.close()
        self._stop.close()

    def _run(self) -> None:
        try:
            self._loop()
        except Exception as error:  # noqa: BLE001 - whatever it is, CRIU must not be left hanging
            self.error = (
                error if isinstance(error, CkptrunError) else DumpError(f"reading the dump failed: {error}")
            )
        finally:
            for fd in self._open:
                os.close(fd)
            if self._socket:
                self._socket.close()
            self._listener.close()
            self._settled.set()

    def _loop(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._stop.fd, select.POLLIN)
        listener = self._listener.fileno()
        while True:
            for fd, _ in poll.poll():
                if fd == self._stop.fd:
                    return
                if fd == listener:
                    self._socket, _ = self._listener.accept()
                    self.connected = time.monotonic()
                    poll.unregister(listener)
                    poll.register(self._socket, select.POLLIN)
                elif fd in self._open:
                    if not self._drain(fd):
                        poll.unregister(fd)
                        self._close_image(fd)
                elif not self._announce(poll):
                    return

    def _announce(self, poll: select.poll) -> bool:
        assert self._socket is not None
        name = read_request(self._socket)
        if name is None:
            return False
        fd = receive_fd(self._socket)
        self.images[name] = self._open[fd] = Extents(self._slot)
        widen(fd)
        poll.register(fd, select.POLLIN)
        return True

    def _drain(self, fd: int) -> bool:
        slot = self._slot
        n = os.readv(fd, [slot.window()])
        if n:
            self._open[fd].append(slot.used, n)
            slot.used += n
        return n > 0

    def _close_image(self, fd: int) -> None:
        del self._open[fd]
        os.close(fd)
        if LAST_IMAGE in self.images and not self._open:
            self._whole = True
            self._settled.set()
