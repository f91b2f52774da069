"""The other end of connections that come back closed: CRIU connects to it at a restore, and it resets them all after.

CRIU connects such sockets to it, as any client would (`connections`), so that they end as a connection ends whose
peer was restarted: ECONNRESET for who reads, EPIPE for who writes, and whoever waits wakes up. No privilege is needed.

Nothing is ever accepted: closing a listening socket resets what waits at it. To reset one before CRIU's `connect` has
returned would fail the restore.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

from ckptrun.criu.connections import LOST

if TYPE_CHECKING:
    from collections.abc import Mapping

_LIMIT = Path("/proc/sys/net/core/somaxconn")
_USUAL_LIMIT = 128


class LostPeer:
    """Listens on loopback until it is closed.

    Args:
        counts: how many sockets are to be reset: ordinary ones under False, those for IPv6 only under True.

    Raises:
        OSError: there is no loopback to listen on.
    """

    def __init__(self, counts: Mapping[bool, int]) -> None:
        self.ports: dict[bool, list[int]] = {}
        self._listeners: list[socket.socket] = []
        limit = _most_waiting()
        try:
            for only6, count in counts.items():
                self.ports[only6] = [self._listen(only6, limit) for _ in range(0, count, limit)]
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Reset every connection."""
        for listener in self._listeners:
            listener.close()

    def _listen(self, only6: bool, limit: int) -> int:
        listener = socket.socket(socket.AF_INET6 if only6 else socket.AF_INET, socket.SOCK_STREAM)
        self._listeners.append(listener)
        listener.bind(("::1" if only6 else socket.inet_ntoa(LOST), 0))
        listener.listen(limit)
        return int(listener.getsockname()[1])


def _most_waiting() -> int:
    """Return how many connections may wait at one socket."""
    try:
        return max(int(_LIMIT.read_text(encoding="ascii")), 1)
    except (OSError, ValueError):
        return _USUAL_LIMIT
