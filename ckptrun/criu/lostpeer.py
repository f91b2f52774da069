"""The other end of connections that come back closed: it accepts and resets them, while CRIU restores.

CRIU connects such sockets to it, as any client would (`connections`), so that they end as a connection ends whose
peer was restarted: ECONNRESET for who reads, EPIPE for who writes, and whoever waits wakes up. No privilege is needed.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import TYPE_CHECKING, Self

from ckptrun.criu.connections import LOST

if TYPE_CHECKING:
    from collections.abc import Collection

_RESET = struct.pack("=ii", 1, 0)
"""SO_LINGER on, zero seconds: closing sends a reset."""


class LostPeer:
    """Listens on loopback until it is closed.

    Args:
        families: which sockets are to be reset, each once: False for ordinary ones, True for IPv6 only.

    Raises:
        OSError: there is no loopback to listen on.
    """

    def __init__(self, families: Collection[bool]) -> None:
        self.ports: dict[bool, int] = {}
        self._listeners: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        try:
            for only6 in families:
                self.ports[only6] = self._listen(only6)
        except OSError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop; what was accepted has been reset."""
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for listener in self._listeners:
            listener.close()

    def _listen(self, only6: bool) -> int:
        family = socket.AF_INET6 if only6 else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        self._listeners.append(listener)
        listener.bind(("::1" if only6 else socket.inet_ntoa(LOST), 0))
        listener.listen(socket.SOMAXCONN)
        thread = threading.Thread(target=_reset_all, args=(listener,), name="lost peer", daemon=True)
        self._threads.append(thread)
        thread.start()
        return int(listener.getsockname()[1])


def _reset_all(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except ConnectionAbortedError:
            continue
        except OSError:
            return
        with connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
