"""Drops the packets of given TCP connections while CRIU rebuilds or saves them: nftables, spoken to over netlink.

At a restore one end of a connection inside the job comes back before the other. Whatever it sends reaches a port
where nobody is yet, the kernel answers with a reset, and CRIU fails ("Can't restore not-sent send queue data"). So
the packets of exactly these connections are dropped on their way in, but for those that carry CRIU's own mark.

The rules lie in a table that belongs to this process's netlink socket: the kernel removes it when the socket is
closed, and so too when ckptrun is killed. No program and no library is needed; Linux 5.12 or newer with nf_tables is.

Called by the supervisor around a restore, and around a dump that is taken again.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckptrun.criu.connections import End

CRIU_MARK = 0xC114
"""SO_MARK of the packets CRIU itself sends to rebuild a half-closed connection (soccr.h)."""

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 10  # nfnetlink.h: NFNL_SUBSYS_NFTABLES
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NEW_TABLE, _NEW_CHAIN, _NEW_RULE = (_SUBSYSTEM << 8 | number for number in (0, 3, 6))
_REQUEST, _ACK, _CREATE, _APPEND = 0x1, 0x4, 0x400, 0x800
_INET = 1
_OWNER = 2
_LOCAL_IN = 1
_TABLE, _CHAIN = "ckptrun", "in"
_RULES_AT_ONCE = 64
_NFPROTO, _L4PROTO, _MARK = 15, 16, 3  # nf_tables.h: keys of meta
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_EQUAL, _UNEQUAL = 0, 1
_SECONDS = 5.0


class PortLock:
    """The lock; make it before the dump or the restore, and `close` it after.

    Args:
        ends: (source, destination) of every direction whose packets are to be dropped.

    Raises:
        OSError: this kernel, or this process's rights, do not allow it.
    """

    def __init__(self, ends: Iterable[tuple[End, End]]) -> None:
        self._sequence = itertools.count(1)
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
        )
        try:
            self._socket.bind((0, 0))
            self._socket.settimeout(_SECONDS)
            table = f"{_TABLE}-{os.getpid()}-{id(self):x}"
            self._apply([_message(_NEW_TABLE, _CREATE, _text(1, table), _number(2, _OWNER)), _chain(table)])
            rules = [_rule(table, source, destination) for source, destination in ends]
            for at in range(0, len(rules), _RULES_AT_ONCE):
                self._apply(rules[at : at + _RULES_AT_ONCE])
        except OSError:
            self._socket.close()
            raise

    def close(self) -> None:
        """Let the packets through again; further calls do nothing."""
        self._socket.close()

    def _apply(self, messages: Sequence[tuple[int, int, bytes]]) -> None:
        """Send one transaction and wait until the kernel has taken every part of it."""
        batch = [(_BATCH_BEGIN, 0, _header(0, _SUBSYSTEM))]
        batch += [(kind, flags | _ACK, body) for kind, flags, body in messages]
        batch.append((_BATCH_END, 0, _header(0, _SUBSYSTEM)))
        data = b""
        for kind, flags, body in batch:
            data += (
                struct.pack("=IHHII", 16 + len(body), kind, flags | _REQUEST, next(self._sequence), 0) + body
            )
        self._socket.send(data)
        answers = 0
        while answers < len(messages):
            for code in _codes(self._socket.recv(1 << 16)):
                if code:
                    raise OSError(-code, os.strerror(-code), "nftables")
                answers += 1


def _codes(data: bytes) -> Iterable[int]:
    """Yield the error codes (0: taken) of the acknowledgements in a datagram."""
    at = 0
    while at + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        if kind == 2:
            yield struct.unpack_from("=i", data, at + 16)[0]
        at += -(-length // 4) * 4


def _header(family: int, resource: int = 0) -> bytes:
    return struct.pack("!BBH", family, 0, resource)


def _message(kind: int, flags: int, *attributes: bytes) -> tuple[int, int, bytes]:
    return kind, flags, _header(_INET) + b"".join(attributes)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _nested(kind: int, *attributes: bytes) -> bytes:
    return _attribute(kind | 0x8000, b"".join(attributes))


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("!I", value))


def _chain(table: str) -> tuple[int, int, bytes]:
    hook = _nested(4, _number(1, _LOCAL_IN), _number(2, 0))
    return _message(_NEW_CHAIN, _CREATE, _text(1, table), _text(3, _CHAIN), hook, _text(7, "filter"))


def _rule(table: str, source: End, destination: End) -> tuple[int, int, bytes]:
    """Return the rule that drops one direction of a connection."""
    narrow = len(source.address) == 4
    expressions = [
        *_meta(_NFPROTO, bytes([socket.AF_INET if narrow else socket.AF_INET6])),
        *_meta(_L4PROTO, bytes([socket.IPPROTO_TCP])),
        *_payload(_NETWORK_HEADER, 12 if narrow else 8, source.address),
        *_payload(_NETWORK_HEADER, 16 if narrow else 24, destination.address),
        *_payload(_TRANSPORT_HEADER, 0, struct.pack("!HH", source.port, destination.port)),
        *_meta(_MARK, struct.pack("=I", CRIU_MARK), _UNEQUAL),
        _expression("immediate", _number(1, 0), _nested(2, _nested(2, _number(1, 0)))),  # the verdict: drop
    ]
    return _message(_NEW_RULE, _CREATE | _APPEND, _text(1, table), _text(2, _CHAIN), _nested(4, *expressions))


def _meta(key: int, value: bytes, operator: int = _EQUAL) -> list[bytes]:
    return [_expression("meta", _number(2, key), _number(1, 1)), _compare(value, operator)]


def _payload(base: int, offset: int, value: bytes) -> list[bytes]:
    load = _expression("payload", _number(1, 1), _number(2, base), _number(3, offset), _number(4, len(value)))
    return [load, _compare(value, _EQUAL)]


def _compare(value: bytes, operator: int) -> bytes:
    return _expression("cmp", _number(1, 1), _number(2, operator), _nested(3, _attribute(1, value)))


def _expression(name: str, *attributes: bytes) -> bytes:
    return _nested(1, _text(1, name), _nested(2, *attributes))
