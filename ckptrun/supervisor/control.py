"""The supervisor's end of the control channel, by which commands reach a live run on this machine.

A Unix stream socket in the run's directory. A connection carries one request and one reply, each a JSON
object on one line. `ControlServer` has one thread that hands requests to a callable and sends replies when
they come, from whichever thread; what a request means is not known here. The commands' end is
`control_client`.

    {"request": "status"}                      -> {"ok": true, "pid": …, …}
    {"request": "checkpoint", "wait": true}    -> {"ok": true, "id": …}
    {"request": "stop"}                        -> {"ok": true, …}
    anything                                   -> {"ok": false, "error": …, "hint": …, "exit_code": …}
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Any, TypeAlias

from ckptrun import errors
from ckptrun.supervisor.control_client import SOCKET_NAME, is_live, socket_address

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Message: TypeAlias = dict[str, Any]
Reply: TypeAlias = "Callable[[Message], None]"

REQUESTS = frozenset({"status", "checkpoint", "stop"})

LINE_LIMIT = 64 * 1024
"""Bytes of one request."""

CONNECTION_LIMIT = 64
"""Connections at a time; more wait in the backlog."""

FLUSH_SECONDS = 1.0
"""How long `ControlServer.close` gives clients to take their replies."""


def failure(error: Exception) -> Message:
    """Return the reply that makes the asking command end with ``error``."""
    if isinstance(error, errors.CkptrunError):
        return {"ok": False, "error": error.message, "hint": error.hint, "exit_code": error.exit_code}
    return {"ok": False, "error": f"internal error: {error!r}", "hint": "", "exit_code": 70}


def refuse_second(run_dir: Path) -> None:
    """See that no other run lives in this directory: what is in it is then another's.

    Raises:
        HeldError: one does.
    """
    if is_live(run_dir):
        raise errors.HeldError(
            f"another run of lineage {run_dir.name!r} lives on this machine",
            hint="stop it with 'ckptrun stop', or choose another --name",
        )


class _Connection:
    """One client: what came in so far, what is still to go out."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.incoming = bytearray()
        self.outgoing = b""
        self.asked = False
        self.answered = False


class ControlServer:
    """Listens in a run's directory and passes requests on.

    Args:
        run_dir: made with mode 0700 if it is not there.
        handle: called in the server's thread with each request and its reply function; must return soon. The
            reply function may be called later, from any thread, once; after that, or when the client has
            gone, it does nothing.

    Raises:
        HeldError: another live run listens there.
    """

    def __init__(self, run_dir: Path, handle: Callable[[Message, Reply], None]) -> None:
        self._run_dir = run_dir
        self._handle = handle
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._replies: list[tuple[_Connection, bytes]] = []
        self._closing = False
        self._connections: set[_Connection] = set()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            self._listener, self._inode = self._listen()
        except BaseException:
            os.close(self._wake)
            self._selector.close()
            raise
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="ckptrun-control", daemon=True)

    def start(self) -> None:
        """Start to answer."""
        self._thread.start()

    def close(self) -> None:
        """Send the replies that are ready, stop, and remove the socket."""
        with self._lock:
            self._closing = True
            self._notify()
        if self._thread.ident is None:
            self._shut()
        else:
            self._thread.join(FLUSH_SECONDS * 2)
        with contextlib.suppress(OSError):  # a socket of another run stays
            path = self._run_dir / SOCKET_NAME
            if path.lstat().st_ino == self._inode:
                path.unlink()

    def _listen(self) -> tuple[socket.socket, int]:
        self._run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._run_dir.chmod(0o700)
        refuse_second(self._run_dir)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        temporary = f"{SOCKET_NAME}.{os.getpid()}"
        with socket_address(self._run_dir, temporary) as address:
            (self._run_dir / temporary).unlink(missing_ok=True)
            listener.bind(address)
        os.chmod(self._run_dir / temporary, 0o600)  # noqa: PTH101 -- a socket, not a file
        inode = (self._run_dir / temporary).lstat().st_ino
        listener.listen(16)
        (self._run_dir / temporary).rename(self._run_dir / SOCKET_NAME)
        return listener, inode

    def _notify(self) -> None:
        """Wake the thread; the lock is held, so that the descriptor is still ours."""
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)

    def _serve(self) -> None:
        deadline: float | None = None
        while True:
            for key, _ in self._selector.select(None if deadline is None else 0.05):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj == self._wake:
                    os.eventfd_read(self._wake)
                else:
                    self._serve_connection(key.data)
            with self._lock:
                replies, self._replies = self._replies, []
                closing = self._closing
            for connection, data in replies:
                self._send(connection, data)
            if closing:
                deadline = deadline or time.monotonic() + FLUSH_SECONDS
                if not any(item.outgoing for item in self._connections) or time.monotonic() > deadline:
                    break
        self._shut()

    def _shut(self) -> None:
        for connection in tuple(self._connections):
            self._drop(connection)
        self._listener.close()
        self._selector.close()
        with self._lock:
            os.close(self._wake)
            self._wake = -1

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            sock, _ = self._listener.accept()
            if len(self._connections) >= CONNECTION_LIMIT or not _may_ask(sock):
                sock.close()
                return
            sock.setblocking(False)
            connection = _Connection(sock)
            self._connections.add(connection)
            self._selector.register(sock, selectors.EVENT_READ, connection)

    def _serve_connection(self, connection: _Connection) -> None:
        if connection not in self._connections:
            return
        if connection.outgoing:
            self._send(connection, b"")
            return
        try:
            data = connection.sock.recv(LINE_LIMIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:  # gone, or it will never ask
            self._drop(connection)
            return
        if connection.asked:  # one request each: what follows is not read
            return
        connection.incoming += data
        if b"\n" in connection.incoming or len(connection.incoming) > LINE_LIMIT:
            connection.asked = True
            self._pass_on(connection, bytes(connection.incoming).partition(b"\n")[0])

    def _pass_on(self, connection: _Connection, line: bytes) -> None:
        def reply(message: Message) -> None:
            with self._lock:
                if connection.answered:
                    return
                connection.answered = True
                self._replies.append((connection, json.dumps(message, default=str).encode() + b"\n"))
                self._notify()

        try:
            self._handle(_parsed(line), reply)
        except Exception as error:  # noqa: BLE001 -- the asking command hears of it; the run goes on
            reply(failure(error))

    def _send(self, connection: _Connection, data: bytes) -> None:
        if connection not in self._connections:
            return
        connection.outgoing += data
        try:
            connection.outgoing = connection.outgoing[connection.sock.send(connection.outgoing) :]
        except BlockingIOError:
            pass
        except OSError:
            connection.outgoing = b""
        if connection.outgoing:
            self._selector.modify(connection.sock, selectors.EVENT_WRITE, connection)
        else:
            self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        connection.outgoing = b""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(connection.sock)
        connection.sock.close()


def _parsed(line: bytes) -> Message:
    """Return the request of a line.

    Raises:
        UsageError: it is none that this version knows.
    """
    try:
        request = json.loads(line)
    except ValueError:
        request = None
    if not isinstance(request, dict) or request.get("request") not in REQUESTS:
        raise errors.UsageError(
            "that request is not known to the run", hint="it may be of another version of ckptrun"
        )
    return request


def _may_ask(sock: socket.socket) -> bool:
    """Tell whether the peer is root or the user this supervisor runs as."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return uid in {0, os.geteuid()}
