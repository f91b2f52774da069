"""Writes what is to become of TCP connections into the images of a restore; `connections` says what each fate means."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Any

from ckptrun.criu.connections import LOST, MAPPED, OVER, Fate, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ckptrun.criu.connections import Connection

GONE = 0x7F43 << 16
"""127.67.0.0: what follows numbers the absent ends of finished connections."""


class Rewriter:
    """Writes the fates into the sockets of ``files.img`` and the queues of ``tcp-stream-*.img``.

    Args:
        connections: what `survey` gave.
        ports: where ckptrun resets connections, in turn: those of ordinary sockets, and of those for IPv6 only.
    """

    def __init__(self, connections: Iterable[Connection], ports: Mapping[bool, Sequence[int]]) -> None:
        self._fates = {c.ino: c for c in connections if c.fate is not Fate.KEPT}
        self._ports = ports
        self._numbers = iter(range(1, 1 << 16))

    @property
    def finished(self) -> Iterator[int]:
        """The inode numbers of the connections whose queue to be sent must go."""
        return (ino for ino, c in self._fates.items() if c.fate is Fate.FINISHED)

    def rewrite(self, entry: Any) -> bool:
        """Change one inet socket; return whether anything changed."""
        connection = self._fates.get(entry.ino)
        if connection is None:
            return False
        entry.ClearField("shutdown")
        entry.ClearField("ifname")
        number = next(self._numbers)
        if connection.fate is Fate.FRESH:
            entry.state, entry.src_port, entry.dst_port = State.CLOSE, 0, 0
        elif connection.fate in {Fate.FINISHED, Fate.OVER}:
            entry.state = State.CLOSE_WAIT if connection.fate is Fate.FINISHED else State.CLOSE
            entry.v6only = False  # IPv6 has one loopback address only
            _set(entry, "src", OVER)
            _set(entry, "dst", struct.pack("!I", GONE + number))
        else:
            entry.proto = socket.IPPROTO_IP  # an ordinary socket to CRIU: it connects it
            entry.state = State.CLOSE
            ports = self._ports[bool(entry.v6only)]
            entry.src_port, entry.dst_port = 1024 + number % 60000, ports[number % len(ports)]
            _set(entry, "src", LOST, only6=entry.v6only)
            _set(entry, "dst", LOST, only6=entry.v6only)
        return True


def _set(entry: Any, side: str, address: bytes, *, only6: bool = False) -> None:
    if entry.family == socket.AF_INET6:
        address = bytes(15) + b"\1" if only6 else MAPPED + address
    words = getattr(entry, f"{side}_addr")
    del words[:]
    words.extend(struct.unpack(f"={len(address) // 4}I", address))
