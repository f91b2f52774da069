"""What the kernel keeps of TCP connections that no process holds: told at a dump, removed before a restore.

A process that is killed leaves its connections to the kernel, which closes them in order: for a moment, or a minute
(TIME-WAIT). Until then the same two ends cannot be connected anew ("Can't connect inet socket back"), and a port that
was not opened with SO_REUSEADDR cannot be listened at ("Can't bind inet socket").

At a dump they may hold the last bytes for a process of the job, which CRIU cannot save.

Called by the supervisor. Removing them needs NET_ADMIN, and a kernel with INET_DIAG_DESTROY.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import TYPE_CHECKING

from ckptrun.criu.connections import End, State

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_NETLINK_SOCK_DIAG = 4
_BY_FAMILY, _DESTROY = 20, 21  # sock_diag.h
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_CLOSING = {State.FIN_WAIT1, State.FIN_WAIT2, State.TIME_WAIT, State.LAST_ACK, State.CLOSING}
_SENDING = {State.FIN_WAIT1, State.LAST_ACK, State.CLOSING}
_HEADER = 16
_MESSAGE = struct.Struct("=4x HH 16s16s4x 8s 16x I")
"""An inet_diag_msg: ports (of the network's order), addresses, cookie, inode number."""
_REPLY_BYTES = 1 << 17
_SECONDS = 5.0


def leaving() -> set[tuple[End, End]]:
    """Return the two ends of every socket without a process whose last bytes, or whose end, are still under way."""
    found: set[tuple[End, End]] = set()
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError), _diagnosis() as diag:
            found.update((here, there) for here, there, _ in _closing(diag, family, _SENDING))
    return found


def clear(ends: Collection[tuple[End, End]], listening: Collection[End]) -> None:
    """Remove the sockets that the kernel is closing and no process holds; those that cannot be are left.

    Args:
        ends: between which two ends.
        listening: or at which one; an address of zeros means any.
    """
    if not ends and not listening:
        return
    wanted, anywhere = set(ends), {end.port for end in listening if not any(end.address)}
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError), _diagnosis() as diag:
            for here, there, question in list(_closing(diag, family, _CLOSING)):
                if (here, there) in wanted or here in listening or here.port in anywhere:
                    diag.send(_request(_DESTROY, _ACK, family, question))
                    diag.recv(_REPLY_BYTES)


def _diagnosis() -> socket.socket:
    diag = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
    diag.settimeout(_SECONDS)
    return diag


def _closing(diag: socket.socket, family: int, states: Collection[State]) -> Iterator[tuple[End, End, bytes]]:
    """Yield every socket without a process in one of these states: its ends, and how the kernel names it."""
    diag.send(_request(_BY_FAMILY, _DUMP, family, bytes(48), states))
    while True:
        data, at = diag.recv(_REPLY_BYTES), 0
        while at < len(data):
            length, kind = struct.unpack_from("=IH", data, at)
            if kind in {_DONE, _ERROR}:
                return
            message = data[at + _HEADER : at + length]
            source_port, target_port, source, target, _, inode = _MESSAGE.unpack_from(message)
            if not inode:
                here = _end(family, source, source_port)
                yield here, _end(family, target, target_port), message[4:52]
            at += -(-length // 4) * 4


def _end(family: int, address: bytes, port: int) -> End:
    return End.of(address[:4] if family == socket.AF_INET else address, socket.ntohs(port))


def _request(
    kind: int, flags: int, family: int, question: bytes, states: Collection[State] = _CLOSING
) -> bytes:
    wanted = sum(1 << state for state in states)
    body = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, wanted) + question
    return struct.pack("=IHHII", _HEADER + len(body), kind, flags | _REQUEST, 1, 0) + body
