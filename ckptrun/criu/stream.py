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
import time
from typing import TYPE_CHECKING

from ckptrun.criu.staging import WINDOW, Extents, Slot
from ckptrun.errors import CkptrunError, DumpError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ckptrun.core.model import Source

CAPTURE_SOCKET = "streamer-capture.sock"
SERVE_SOCKET = "streamer-serve.sock"
LAST_IMAGE = "inventory.img"
"""CRIU writes it last."""
F_SETPIPE_SZ = 1031


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
        self._stop = _Stop()
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
        name = _read_request(self._socket)
        if name is None:
            return False
        fd = _receive_fd(self._socket)
        self.images[name] = self._open[fd] = Extents(self._slot)
        _widen(fd)
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


class Serve:
    """Answers one restore's requests from sources. `error` is the first thing that went wrong on this side.

    Args:
        folder: where CRIU looks for the socket.
        images: name -> content.
        asked: called with a name before it is answered: whoever asked waits meanwhile.
    """

    def __init__(
        self, folder: Path, images: Mapping[str, Source], asked: Callable[[str], None] = lambda _: None
    ) -> None:
        self.error: Exception | None = None
        self._images = images
        self._asked = asked
        self._stop = _Stop()
        self._listener = listen(folder / SERVE_SOCKET)
        self._connection: socket.socket | None = None
        self._writers: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._run, name="serve", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def close(self) -> None:
        """Stop serving; CRIU, if still reading, sees short files."""
        self._stop.set()
        if self._connection:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
        if self._thread.ident is not None:
            self._thread.join()
        for writer in self._writers:
            writer.join()
        self._listener.close()
        self._stop.close()

    def _run(self) -> None:
        if not self._stop.wait_for(self._listener.fileno(), select.POLLIN):
            return
        self._connection, _ = self._listener.accept()
        with self._connection as connection:
            try:
                while (name := _read_request(connection)) is not None:
                    self._answer(connection, name)
            except Exception as error:  # noqa: BLE001 - told by the restore; CRIU sees the end of the socket
                self._failed(error)

    def _failed(self, error: Exception) -> None:
        if self.error is None and not self._stop.is_set():
            self.error = error

    def _answer(self, connection: socket.socket, name: str) -> None:
        self._asked(name)
        source = self._images.get(name)
        reply = b"\x08\x00" if source is None else b"\x08\x01"
        connection.sendall(struct.pack("<I", len(reply)) + reply)
        if source is None:
            return
        fd = _receive_fd(connection)
        writer = threading.Thread(target=self._write, args=(fd, source), name=f"serve {name}", daemon=True)
        self._writers = [w for w in self._writers if w.is_alive()]
        self._writers.append(writer)
        writer.start()

    def _write(self, fd: int, source: Source) -> None:
        try:
            _widen(fd)
            os.set_blocking(fd, False)
            for piece in source.pieces():
                view = memoryview(piece)
                while view:
                    try:
                        view = view[os.write(fd, view) :]
                    except BlockingIOError:
                        if not self._stop.wait_for(fd, select.POLLOUT):
                            return
        except BrokenPipeError:
            pass  # CRIU has read what it wanted
        except Exception as error:  # noqa: BLE001 - told by the restore; CRIU sees a short file
            self._failed(error)
        finally:
            os.close(fd)


class _Stop:
    """A flag that threads blocked in `poll` see."""

    def __init__(self) -> None:
        self.fd, self._writer = os.pipe()
        self._lock = threading.Lock()
        self._set = False
        self._closed = False

    def set(self) -> None:
        with self._lock:
            if not self._set:
                self._set = True
                os.write(self._writer, b"x")

    def is_set(self) -> bool:
        return self._set

    def wait_for(self, fd: int, event: int) -> bool:
        """Wait for an event on `fd`; False when the flag is set first."""
        poll = select.poll()
        poll.register(fd, event)
        poll.register(self.fd, select.POLLIN)
        return all(ready != self.fd for ready, _ in poll.poll())

    def close(self) -> None:
        """Close it once nobody waits any more; further calls do nothing: the numbers may be others' by then."""
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self.fd)
                os.close(self._writer)


def _widen(pipe: int) -> None:
    with contextlib.suppress(OSError):  # past the user's quota it stays as it is: slower, not wrong
        fcntl.fcntl(pipe, F_SETPIPE_SZ, WINDOW)


def listen(path: Path, mode: int = 0o600) -> socket.socket:
    """Listen on a Unix socket at `path`."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(mode)
    except OSError:
        listener.close()
        raise
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
