"""What becomes of a job's TCP connections, read from a dump's images; `rewriter` writes it down for a restore.

CRIU knows two ways for all connections of a tree: rebuild them, or close them. ``--tcp auto`` wants both. So each
connection gets a fate, and where that is not CRIU's own way its socket in ``files.img`` is rewritten:

* KEPT: both ends are in the images. CRIU rebuilds it, with what is in its queues.
* FINISHED: the other end is gone, but has closed in order. What has arrived can be read, then comes the end; writing
  fails. CRIU rebuilds it between two loopback addresses that nobody uses.
* OVER: both sides have closed in order, and the other end is gone. As FINISHED, but that nothing can be written.
* RESET: the other end is outside, or was never accepted. It becomes an ordinary socket that CRIU connects to
  ckptrun itself (`lostpeer`), which resets it: ECONNRESET, as if the other machine had been restarted. An end of
  file would be wrong: half an answer could be taken for a whole one.
* FRESH: it was still being connected, by a thread that waits for it. It becomes a new socket, and the thread's
  ``connect`` begins anew.

Called by `images` and the supervisor. It must not know where images come from or go.
"""

from __future__ import annotations

import enum
import os
import socket
import struct
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptrun.core.config import TcpPolicy

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from ckptrun.errors import DumpError, RestoreError

KEEP_FLAGS = ("--tcp-established", "--network-lock", "skip")
CLOSE_FLAGS = ("--tcp-close",)

LOST = bytes([127, 67, 75, 80])
"""Address of both ends of a reset connection: by it a later dump knows one whose error nobody has read yet."""
OVER = bytes([127, 67, 69, 78])
"""Address of the job's end of a connection whose other end is gone in order."""
MAPPED = bytes(10) + b"\xff\xff"
"""How an IPv6 address begins that stands for one of IPv4."""
_SHOWN = 4
"""Groups of peers that a message names."""


class State(enum.IntEnum):
    """TCP states, by the kernel's numbers."""

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11


_HEARD_THE_END = {State.CLOSE_WAIT, State.LAST_ACK, State.CLOSING}
"""The peer has sent its end, and so everything before it has arrived."""
_END_UNACKNOWLEDGED = {State.FIN_WAIT1, State.LAST_ACK, State.CLOSING}


class Fate(enum.Enum):
    """See the module."""

    KEPT = enum.auto()
    FINISHED = enum.auto()
    OVER = enum.auto()
    RESET = enum.auto()
    FRESH = enum.auto()


class End(NamedTuple):
    """One end of a connection; an IPv4 address in IPv6's clothes is an IPv4 address."""

    address: bytes
    port: int

    @classmethod
    def of(cls, address: bytes, port: int) -> End:
        """Return the end at these bytes of an address, 4 or 16."""
        mapped = len(address) == 16 and address.startswith(MAPPED)
        return cls(address[12:] if mapped else address, port)

    def __str__(self) -> str:
        """Return it as people write it."""
        if len(self.address) == 4:
            return f"{socket.inet_ntop(socket.AF_INET, self.address)}:{self.port}"
        return f"[{socket.inet_ntop(socket.AF_INET6, self.address)}]:{self.port}"


@dataclass(frozen=True, slots=True)
class Connection:
    """One TCP socket of the images that is, or was, connected, and what becomes of it."""

    ino: int
    state: State
    here: End
    there: End
    fate: Fate
    inside: bool
    """Whether the other end is, or was, in the job too."""
    only6: bool = False
    """Whether the socket takes IPv6 addresses only."""


def is_connection(entry: Any) -> bool:
    """Tell whether an inet socket of the images is a TCP socket that is connected, or that a restore has reset."""
    if entry.proto != socket.IPPROTO_TCP or entry.type != socket.SOCK_STREAM or entry.state == State.LISTEN:
        return False
    return bool(entry.dst_port) or (entry.state == State.CLOSE and _here(entry).address == LOST)


def _end(words: Collection[int], port: int) -> End:
    return End.of(struct.pack(f"={len(words)}I", *words), port)


def _here(entry: Any) -> End:
    return _end(entry.src_addr, entry.src_port)


def _there(entry: Any) -> End:
    return _end(entry.dst_addr, entry.dst_port)


def listening_at(entries: Iterable[Any]) -> set[End]:
    """Return where the job listens."""
    return {
        _here(entry) for entry in entries if entry.proto == socket.IPPROTO_TCP and entry.state == State.LISTEN
    }


def survey(
    entries: Iterable[Any], policy: TcpPolicy, *, queues: bool, failed: Collection[int] = ()
) -> tuple[Connection, ...]:
    """Decide the fate of every connection.

    Args:
        entries: the inet sockets of ``files.img``.
        policy: what the user wants.
        queues: whether the dump holds what was in the connections' queues (it was made with `KEEP_FLAGS`).
        failed: the sockets whose connection had failed, which the job was not told yet.
    """
    entries = list(entries)
    listening = listening_at(entries)
    connected = [entry for entry in entries if is_connection(entry)]
    pairs = {(_here(entry), _there(entry)) for entry in connected}
    return tuple(
        _decide(entry, policy, pairs, listening, queues=queues, failed=entry.ino in failed)
        for entry in connected
    )


def _decide(
    entry: Any,
    policy: TcpPolicy,
    pairs: set[tuple[End, End]],
    listening: set[End],
    *,
    queues: bool,
    failed: bool,
) -> Connection:
    here, there, state = _here(entry), _there(entry), State(entry.state)
    paired = (there, here) in pairs
    inside = paired or _listens(there, here, listening)
    if failed and queues:
        fate = Fate.RESET
    elif state is State.SYN_SENT:
        fate = Fate.RESET if entry.flags & os.O_NONBLOCK else Fate.FRESH
    elif policy is TcpPolicy.KEEP and queues:
        fate = Fate.KEPT
    elif policy is TcpPolicy.CLOSE:
        fate = Fate.RESET
    elif paired:
        fate = Fate.KEPT
    elif state is State.CLOSE and queues and here.address != LOST:
        fate = Fate.OVER
    elif state in _HEARD_THE_END and queues:
        fate = Fate.FINISHED
    else:
        fate = Fate.RESET
    return Connection(entry.ino, state, here, there, fate, inside, bool(entry.v6only))


def _listens(end: End, other: End, listening: set[End]) -> bool:
    """Tell whether a socket of the job listens at `end`, for somebody on the same machine at `other`."""
    if end in listening:
        return True
    local = end.address == other.address or end.address[:1] == b"\x7f"
    return local and any(at.port == end.port and not any(at.address) for at in listening)


def check_keepable(connections: Iterable[Connection], error: type[DumpError | RestoreError]) -> None:
    """Refuse connections inside of the job where nobody may rebuild one.

    Raises:
        DumpError, RestoreError: there is one.
    """
    for connection in connections:
        if connection.fate is Fate.KEPT:
            raise error(
                f"the job holds a TCP connection of its own, {connection.here} to {connection.there}, "
                "which only root with NET_ADMIN can rebuild",
                hint="run ckptrun as root, use a Unix socket or a pipe inside the job, "
                "or let every connection come back closed with --tcp close",
            )


def torn(connections: Iterable[Connection], queues: Mapping[int, Any]) -> Connection | None:
    """Return a kept connection whose ends were saved at different moments, so that bytes would be missing.

    A timer of the kernel may deliver a segment while the job is stopped: if the receiver was saved before it and the
    sender after its acknowledgement, neither image has those bytes. The other way round TCP itself sorts out.
    """
    kept = {(c.here, c.there): c for c in connections if c.fate is Fate.KEPT}
    for (here, there), connection in kept.items():
        peer = kept.get((there, here))
        ours, theirs = queues.get(connection.ino), queues.get(peer.ino) if peer else None
        if ours is None or theirs is None:
            continue
        acknowledged = ours.outq_seq - ours.outq_len - (connection.state in _END_UNACKNOWLEDGED)
        if 0 < (acknowledged - theirs.inq_seq) % (1 << 32) < 1 << 31:
            return connection
    return None


def bereft(connections: Iterable[Connection], leaving: Collection[tuple[End, End]]) -> Connection | None:
    """Return a connection for which bytes are under way that no process holds: its other end was closed just now.

    Args:
        connections: what `survey` gave.
        leaving: the ends of the sockets that the kernel is closing by itself (`leftovers.leaving`).
    """
    whole = {*_HEARD_THE_END, State.CLOSE}
    return next((c for c in connections if (c.there, c.here) in leaving and c.state not in whole), None)


def locked_ends(connections: Iterable[Connection]) -> list[tuple[End, End]]:
    """Return (source, destination) of every packet that the kept connections inside of the job send."""
    return [(c.here, c.there) for c in connections if c.fate is Fate.KEPT and c.there.port]


def report(connections: Iterable[Connection]) -> list[str]:
    """Return what the user should know of the connections that came back closed, a sentence each."""
    closed = [c for c in connections if c.fate not in {Fate.KEPT, Fate.OVER} and c.there.port]
    sentences = []
    outside = Counter(str(c.there) for c in closed if not c.inside)
    if outside:
        verb = "connection to the outside" if outside.total() == 1 else "connections to the outside"
        sentences.append(f"{outside.total()} {verb} came back closed: {_listed(outside)}")
    pairs = {frozenset((c.here, c.there)): str(c.there) for c in closed if c.inside}
    inside = Counter(pairs.values())
    if inside:
        verb = "connection" if inside.total() == 1 else "connections"
        sentences.append(f"{inside.total()} {verb} inside the job came back closed: {_listed(inside)}")
    return sentences


def _listed(peers: Counter[str]) -> str:
    parts = [f"{peer} ({count})" if count > 1 else peer for peer, count in peers.most_common(_SHOWN)]
    return ", ".join(parts) + (", …" if len(peers) > _SHOWN else "")
