"""CRIU's image-streamer protocol, both ways: draining a dump into staging, serving a restore from sources.

For every image file CRIU sends a request (u32 little-endian length, protobuf ``{1: filename}``) over a Unix stream
socket. Dumping: then one byte with a pipe's read end. Restoring: it waits for a reply (``{1: exists}``) and, if the
file exists, sends a pipe's write end. Facts that matter here:

* The pages in a pipe are the job's LIVE pages. Until every pipe has reached its end the tree must stay stopped;
  `Capture.wait` says when that is. CRIU closes the socket later, so its end says nothing.
* If the reader stops reading while CRIU is dumping, CRIU blocks with the job frozen. So whatever happens to the
  reader, it closes every descriptor on its way out: CRIU gets a broken pipe, fails, and thaws.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import select
import socket
import struct
import threading
from typing import TYPE_CHECKING

from ckptrun.criu.staging import WINDOW, Extents, Slot
from ckptrun.errors import CkptrunError, DumpError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ckptrun.core.model import Source

CAPTURE_SOCKET = "streamer-capture.sock"
SERVE_SOCKET = "streamer-serve.sock"
LAST_IMAGE = "inventory.img"
"""CRIU writes it last."""
F_SETPIPE_SZ = 1031
_ACCEPT_SECONDS = 30.0


class Capture:
    """Receives one dump into a slot. `start` before CRIU is started; `wait` from the post-dump action's handler."""

    def __init__(self, folder: Path, slot: Slot) -> None:
        self.images: dict[str, Extents] = {}
        self.error: Exception | None = None
        self._slot = slot
        self._complete = threading.Event()
        self._finished = threading.Event()
        self._listener = _listen(folder / CAPTURE_SOCKET)
        self._stop_read, self._stop_write = os.pipe()
        self._socket: socket.socket | None = None
        self._open: dict[int, Extents] = {}
        self._last_fd = -1
        self._last_seen = False
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)

    def start(self) -> None:
        """Begin to listen and to read."""
        self._thread.start()

    def wait(self, timeout: float) -> bool:
        """Wait until the last image and every announced pipe have reached their ends; False if that fails."""
        self._complete.wait(timeout)
        return self._complete.is_set() and self.error is None

    def close(self) -> None:
        """End the reading, whatever its state; CRIU, if still writing, gets a broken pipe."""
        with contextlib.suppress(OSError):
            os.write(self._stop_write, b"x")
        if self._thread.is_alive():
            self._thread.join()
        for fd in (self._stop_read, self._stop_write):
            with contextlib.suppress(OSError):
                os.close(fd)

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
            self._complete.set()

    def _loop(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._stop_read, select.POLLIN)
        listener, stop = self._listener.fileno(), self._stop_read
        while True:
            for fd, _ in poll.poll():
                if fd == stop:
                    return
                if fd == listener:
                    self._socket, _ = self._listener.accept()
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
        name = _read_request(self._socket)
        if name is None:
            return False
        fd = _receive_fd(self._socket)
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, F_SETPIPE_SZ, WINDOW)
        self.images[name] = self._open[fd] = Extents(self._slot)
        if name == LAST_IMAGE:
            self._last_fd, self._last_seen = fd, True
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
        if self._last_seen and not self._open:
            self._complete.set()


class Serve:
    """Answers one restore's requests from sources."""

    def __init__(self, folder: Path, images: Mapping[str, Source]) -> None:
        self._images = images
        self.error: Exception | None = None
        self._listener = _listen(folder / SERVE_SOCKET)
        self._listener.settimeout(_ACCEPT_SECONDS)
        self._writers: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._run, name="serve", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def close(self) -> None:
        """Stop serving; call after CRIU has ended."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for writer in self._writers:
            writer.join()

    def _run(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        connection.settimeout(None)
        with connection:
            try:
                while (name := _read_request(connection)) is not None:
                    self._answer(connection, name)
            except OSError as error:
                self.error = error

    def _answer(self, connection: socket.socket, name: str) -> None:
        source = self._images.get(name)
        reply = b"\x08\x01" if source else b"\x08\x00"
        connection.sendall(struct.pack("<I", len(reply)) + reply)
        if source is None:
            return
        fd = _receive_fd(connection)
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, F_SETPIPE_SZ, WINDOW)
        writer = threading.Thread(target=self._write, args=(fd, source), name=f"serve {name}", daemon=True)
        self._writers = [w for w in self._writers if w.is_alive()]
        self._writers.append(writer)
        writer.start()

    def _write(self, fd: int, source: Source) -> None:
        try:
            for piece in source.pieces():
                view = memoryview(piece)
                while view:
                    view = view[os.write(fd, view) :]
        except BrokenPipeError:
            pass  # CRIU has read what it wanted
        except Exception as error:  # noqa: BLE001 - told by the restore; CRIU sees a short file
            self.error = error
        finally:
            os.close(fd)


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(1)
    return listener


def _read_request(connection: socket.socket) -> str | None:
    head = _read_exactly(connection, 4)
    if head is None:
        return None
    body = _read_exactly(connection, struct.unpack("<I", head)[0])
    if body is None:
        return None
    return _string_field(body)


def _read_exactly(connection: socket.socket, size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        try:
            part = connection.recv(size - len(data))
        except ConnectionResetError:
            return None
        if not part:
            return None
        data += part
    return data


def _string_field(body: bytes) -> str:
    """Return field 1 of a protobuf message that has just this one string."""
    assert body[:1] == b"\x0a"
    length, at, shift = 0, 1, 0
    while True:
        byte = body[at]
        length |= (byte & 0x7F) << shift
        at += 1
        shift += 7
        if not byte & 0x80:
            break
    return body[at : at + length].decode()


def _receive_fd(connection: socket.socket) -> int:
    fds = array.array("i")
    _, ancillary, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(fds.itemsize), socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: fds.itemsize])
            return fds[0]
    raise DumpError("CRIU announced an image without its pipe")
