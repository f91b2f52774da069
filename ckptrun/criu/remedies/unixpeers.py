"""Which Unix socket is connected to which: asked of the kernel by sock_diag, for this network namespace.

/proc/net/unix has no peers.
"""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass

_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST_DUMP = 0x301
_NLMSG_DONE, _NLMSG_ERROR = 3, 2
_SHOW_NAME, _SHOW_PEER = 1, 4
_NAME, _PEER = 0, 2
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBHIIIII")
_ENTRY = struct.Struct("=BBBBIII")
_ATTRIBUTE = struct.Struct("=HH")
_CONNECTED_KINDS = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)


@dataclass(frozen=True, slots=True)
class UnixSocket:
    """One Unix socket: whom it is connected to (0: nobody that has a socket yet), and its own name."""

    peer: int
    connected: bool
    name: str


def unix_sockets() -> dict[int, UnixSocket]:
    """Return every Unix socket of this network namespace by its inode; none if the kernel does not tell."""
    found: dict[int, UnixSocket] = {}
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as diag:
            request = _REQUEST.pack(socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _SHOW_NAME | _SHOW_PEER, 0, 0)
            size = _HEADER.size + len(request)
            diag.send(_HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 1, 0) + request)
            while _take(diag.recv(1 << 16), found):
                pass
    except OSError:
        return {}
    return found


def _take(data: bytes, found: dict[int, UnixSocket]) -> bool:
    """Add what a datagram tells; False when it was the last one."""
    while len(data) >= _HEADER.size:
        size, kind, *_ = _HEADER.unpack_from(data)
        if kind in (_NLMSG_DONE, _NLMSG_ERROR) or size < _HEADER.size:
            return False
        _, socket_kind, _, _, inode, *_ = _ENTRY.unpack_from(data, _HEADER.size)
        attributes = _attributes(data[_HEADER.size + _ENTRY.size : size])
        peer = struct.unpack("=I", attributes[_PEER])[0] if _PEER in attributes else 0
        name = os.fsdecode(attributes.get(_NAME, b"")).replace("\0", "@", 1)
        found[inode] = UnixSocket(peer, socket_kind in _CONNECTED_KINDS, name)
        data = data[-(-size // 4) * 4 :]
    return True


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(data)
        if size < _ATTRIBUTE.size:
            break
        found[kind] = data[_ATTRIBUTE.size : size]
        data = data[-(-size // 4) * 4 :]
    return found
