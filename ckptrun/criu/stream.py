"""CRIU's image-streamer protocol: what draining a dump and serving a restore share.

For every image file CRIU sends a request (u32 little-endian length, protobuf ``{1: filename}``) over a Unix stream
socket. Dumping (`capture`): then one byte with a pipe's read end. Restoring (`serve`): it waits for a reply
(``{1: exists}``) and, if the file exists, sends a pipe's write end.
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

from ckptrun.criu.staging import WINDOW
from ckptrun.errors import DumpError

if TYPE_CHECKING:
    from pathlib import Path

F_SETPIPE_SZ = 1031


class Stop:
    """A flag that threads blocked in `poll` see."""

    def __init__(self) -> None:
        self.fd, self._writer = os.pipe()
        self._lock = threading.Lock()
        self._set = False
        self._closed = False

    def set(self) -> None:
        """Set it for good."""
        with self._lock:
            if not self._set:
                self._set = True
                os.write(self._writer, b"x")

    def is_set(self) -> bool:
        """Whether it is set."""
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


def widen(pipe: int) -> None:
    """Have a pipe take as much at a time as may be."""
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


def read_request(connection: socket.socket) -> str | None:
    """Return the name of the image file that CRIU is at; None at the end."""
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


def receive_fd(connection: socket.socket) -> int:
    """Return the pipe that CRIU sends. Raises DumpError."""
    fds = array.array("i")
    _, ancillary, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(fds.itemsize), socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: fds.itemsize])
            return fds[0]
    raise DumpError("CRIU announced an image without its pipe")
