"""Takes the connections of shims, and refuses what is none or cannot be served; see `shim`."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from ckptrun.capsule import hello
from ckptrun.capsule.shim import HELLO_SECONDS, Shim
from ckptrun.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

SOCKET = Path("/ckptrun/run/shim.sock")
PAUSE_SECONDS = 0.1
_REFUSAL = 1000
"""Bytes of it that a shim takes."""


def _nothing(*_: object) -> None:
    pass


class ShimListener:
    """Takes the connections of shims, one at a time.

    Args:
        path: of the socket; its folder must exist.
        version: ckptrun's own, for the message to a shim that does not fit.
        refused: told, from the listener's thread, why a connection was refused, as an error that names the fix.
    """

    def __init__(
        self,
        path: Path = SOCKET,
        version: str = "",
        refused: Callable[[ConfigurationError], None] = _nothing,
    ) -> None:
        self._path = path
        self._version = version
        self._refused = refused
        self._serving: Shim | None = None
        self._closed = threading.Event()
        self._shims: queue.SimpleQueue[Shim | None] = queue.SimpleQueue()
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(str(path))
        path.chmod(0o666)
        self._socket.listen(8)
        threading.Thread(target=self._accept, name="shims", daemon=True).start()

    def wait(self, timeout: float | None = None) -> Shim | None:
        """Return the next shim; None when `timeout` seconds pass first, or after `close`. Call `Shim.serve` on it."""
        try:
            return self._shims.get(timeout=timeout)
        except queue.Empty:
            return None

    def close(self) -> None:
        """Listen no more; the shim that is served keeps its connection."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._path.unlink(missing_ok=True)
        self._shims.put(None)

    def _accept(self) -> None:
        with self._socket:
            while not self._closed.is_set():
                try:
                    connection, _ = self._socket.accept()
                except OSError:
                    self._closed.wait(PAUSE_SECONDS)  # closed, or no descriptor is left for now
                    continue
                self._meet(connection)

    def _meet(self, connection: socket.socket) -> None:
        try:
            shim = self._greet(connection)
        except ConfigurationError as error:
            self._refuse(connection, error)
        except OSError:
            connection.close()  # gone again, or too slow: a shim comes back
        else:
            self._serving = shim
            self._shims.put(shim)

    def _greet(self, connection: socket.socket) -> Shim:
        pid = hello.peer(connection)
        self._admit(pid)
        connection.settimeout(HELLO_SECONDS)
        said = hello.receive(connection, pid, self._version)
        connection.settimeout(None)
        try:
            return Shim(connection, pid, said)
        except OSError:
            for fd in (*said.stdio, *said.kept.values()):
                os.close(fd)
            raise

    def _admit(self, pid: int) -> None:
        """Raise ConfigurationError if this process is not to be served."""
        if pid == 0:
            raise hello.MisfitError(
                "the job's container and the sidecar do not see each other's processes",
                hint="set shareProcessNamespace: true in the pod's spec",
            )
        if self._serving is not None and self._serving.pid != pid and self._serving.connected:
            raise ConfigurationError(
                f"process {pid} asks for a job of its own, but the sidecar has one already, "
                f"that of process {self._serving.pid}",
                hint="start one container of the pod by ckptrun-shim, and nothing in it",
            )

    def _refuse(self, connection: socket.socket, error: ConfigurationError) -> None:
        if not (isinstance(error, hello.MisfitError) and error.running):
            with contextlib.suppress(OSError):
                connection.send(f"refused {error}".encode()[:_REFUSAL])
        connection.close()
        self._refused(error)
