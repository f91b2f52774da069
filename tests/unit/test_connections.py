"""What is decided about each TCP connection of a dump, and how torn ones are told."""

from __future__ import annotations

import itertools
import os
import socket
import struct
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from ckptrun.core.config import TcpPolicy
from ckptrun.criu.connections import (
    LOST,
    End,
    Fate,
    State,
    bereft,
    check_keepable,
    listening_at,
    locked_ends,
    report,
    survey,
    torn,
)
from ckptrun.errors import DumpError

_numbers = itertools.count(1)
LOCAL, FAR = "127.0.0.1", "203.0.113.5"


def words(address: str) -> list[int]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    return list(struct.unpack(f"={len(packed) // 4}I", packed))


@dataclass
class Socket:
    """A socket as CRIU's images describe it."""

    here: tuple[str, int]
    there: tuple[str, int] = ("0.0.0.0", 0)
    state: State = State.ESTABLISHED
    flags: int = 0
    v6only: bool = False
    proto: int = socket.IPPROTO_TCP
    type: int = socket.SOCK_STREAM
    ino: int = field(default_factory=lambda: next(_numbers))

    def __post_init__(self) -> None:
        self.src_addr, self.src_port = words(self.here[0]), self.here[1]
        self.dst_addr, self.dst_port = words(self.there[0]), self.there[1]


def fates(*sockets: Socket, policy: TcpPolicy = TcpPolicy.AUTO, queues: bool = True) -> list[Fate]:
    return [connection.fate for connection in survey(sockets, policy, queues=queues)]


def pair(one: str = LOCAL, state: State = State.ESTABLISHED, peer: State = State.ESTABLISHED) -> list[Socket]:
    return [Socket((one, 5000), (one, 40000), state), Socket((one, 40000), (one, 5000), peer)]


@pytest.mark.parametrize("address", [LOCAL, "::1", "10.1.2.3", "fd00::7"])
def test_a_connection_with_both_ends_in_the_images_is_kept(address: str):
    assert fates(*pair(address)) == [Fate.KEPT, Fate.KEPT]


def test_an_ipv4_end_and_the_same_in_ipv6s_clothes_are_one_connection():
    server = Socket(("::ffff:127.0.0.1", 80), ("::ffff:127.0.0.1", 40000))
    assert fates(server, Socket((LOCAL, 40000), (LOCAL, 80))) == [Fate.KEPT, Fate.KEPT]


def test_a_connection_to_the_outside_is_reset_also_to_a_neighbour_on_this_machine():
    assert (
        fates(Socket((LOCAL, 40000), (FAR, 443)), Socket((LOCAL, 40001), (LOCAL, 5432))) == [Fate.RESET] * 2
    )


@pytest.mark.parametrize("state", [State.CLOSE_WAIT, State.LAST_ACK, State.CLOSING])
def test_what_has_arrived_whole_from_outside_can_be_read(state: State):
    assert fates(Socket((LOCAL, 40000), (FAR, 443), state)) == [Fate.FINISHED]
    assert fates(Socket((LOCAL, 40000), (FAR, 443), state), queues=False) == [Fate.RESET]


@pytest.mark.parametrize("policy", [TcpPolicy.AUTO, TcpPolicy.KEEP])
def test_a_connection_that_has_failed_is_reset_also_inside_the_job(policy: TcpPolicy):
    one, other = pair(state=State.CLOSE)
    connections = survey([one, other], policy, queues=True, failed={one.ino})
    assert [c.fate for c in connections] == [Fate.RESET, Fate.KEPT]


def test_what_is_left_of_a_connection_that_both_sides_have_closed_can_be_read():
    over = Socket((LOCAL, 40000), (FAR, 443), State.CLOSE)
    assert fates(over) == [Fate.OVER]
    assert fates(over, queues=False) == fates(over, policy=TcpPolicy.CLOSE) == [Fate.RESET]
    assert fates(*pair(state=State.CLOSE, peer=State.CLOSE)) == [Fate.KEPT] * 2
    assert report(survey([over], TcpPolicy.AUTO, queues=True)) == []


def test_a_connection_whose_other_end_the_kernel_is_closing_by_itself_is_found():
    connections = survey([Socket((LOCAL, 5000), (LOCAL, 40000))], TcpPolicy.AUTO, queues=True)
    here, there = connections[0].here, connections[0].there
    assert bereft(connections, {(there, here)}) is connections[0]
    assert bereft(connections, {(here, there)}) is None


@pytest.mark.parametrize("state", [State.CLOSE_WAIT, State.LAST_ACK, State.CLOSING, State.CLOSE])
def test_who_has_heard_the_end_has_everything_though_the_kernel_awaits_the_acknowledgement(state: State):
    connections = survey([Socket((LOCAL, 5000), (LOCAL, 40000), state)], TcpPolicy.AUTO, queues=True)
    assert bereft(connections, {(connections[0].there, connections[0].here)}) is None


def test_a_thread_that_waits_for_connect_begins_anew_and_a_poller_is_told():
    waiting = Socket((LOCAL, 40000), (FAR, 443), State.SYN_SENT)
    polling = Socket((LOCAL, 40001), (FAR, 443), State.SYN_SENT, flags=os.O_NONBLOCK)
    assert fates(waiting, polling) == [Fate.FRESH, Fate.RESET]
    assert fates(waiting, polling, policy=TcpPolicy.KEEP) == [Fate.FRESH, Fate.RESET]


def test_every_connection_is_closed_or_kept_if_told_so():
    everything = [*pair(peer=State.CLOSE_WAIT), Socket((LOCAL, 40009), (FAR, 443))]
    assert fates(*everything, policy=TcpPolicy.CLOSE) == [Fate.RESET] * 3
    assert fates(*everything, policy=TcpPolicy.KEEP) == [Fate.KEPT] * 3


def test_sockets_that_listen_or_are_not_connected_are_left_alone():
    listening = Socket(("0.0.0.0", 80), state=State.LISTEN)
    assert fates(listening, Socket((LOCAL, 9000), state=State.CLOSE)) == []
    assert fates(Socket((LOCAL, 53), (LOCAL, 54), proto=socket.IPPROTO_UDP, type=socket.SOCK_DGRAM)) == []
    assert listening_at([listening]) == {End(bytes(4), 80)}


def test_a_connection_that_an_earlier_restore_reset_is_reset_again_and_not_counted():
    lost = Socket((socket.inet_ntoa(LOST), 1025), state=State.CLOSE)
    connections = survey([lost], TcpPolicy.AUTO, queues=True)
    assert [c.fate for c in connections] == [Fate.RESET]
    assert report(connections) == []


@pytest.mark.parametrize("at", [LOCAL, "0.0.0.0", "::"])
def test_a_connection_that_the_job_has_not_accepted_is_told_as_its_own(at: str):
    listening = Socket((at, 80), state=State.LISTEN)
    connections = survey([listening, Socket((LOCAL, 40000), (LOCAL, 80))], TcpPolicy.AUTO, queues=True)
    assert report(connections) == ["1 connection inside the job came back closed: 127.0.0.1:80"]


def test_the_report_counts_peers_and_stays_short():
    peers = [("10.0.0.1", 5432), ("10.0.0.1", 5432), *((f"10.0.1.{n}", 80) for n in range(5))]
    sockets = [Socket(("10.0.0.9", 40000 + n), peer) for n, peer in enumerate(peers)]
    (sentence,) = report(survey(sockets, TcpPolicy.AUTO, queues=True))
    assert sentence.startswith(
        "7 connections to the outside came back closed: 10.0.0.1:5432 (2), 10.0.1.0:80"
    )
    assert sentence.endswith(", …")


def test_closed_pairs_inside_the_job_are_counted_once():
    (sentence,) = report(survey(pair(), TcpPolicy.CLOSE, queues=False))
    assert sentence.startswith("1 connection inside the job came back closed")


def test_the_lock_takes_both_directions_of_what_is_kept_and_nothing_else():
    connections = survey([*pair(), Socket((LOCAL, 40009), (FAR, 443))], TcpPolicy.AUTO, queues=True)
    one, other = End(bytes([127, 0, 0, 1]), 5000), End(bytes([127, 0, 0, 1]), 40000)
    assert locked_ends(connections) == [(one, other), (other, one)]


def test_who_may_not_rebuild_connections_refuses_those_of_the_job_by_name():
    with pytest.raises(DumpError, match=r"127\.0\.0\.1:5000 to 127\.0\.0\.1:40000") as caught:
        check_keepable(survey(pair(), TcpPolicy.AUTO, queues=False), DumpError)
    assert "--tcp close" in str(caught.value.hint)
    check_keepable(survey([Socket((LOCAL, 1), (FAR, 2))], TcpPolicy.AUTO, queues=False), DumpError)


@pytest.mark.parametrize(
    ("sent", "unacknowledged", "received", "bad"),
    [
        (1000, 100, 900, False),
        (1000, 100, 1000, False),  # received, its acknowledgement was not seen: it is sent again
        (1000, 0, 900, True),  # acknowledged, but saved nowhere
        (1000, 99, 900, True),
        (50, 0, 2**32 - 10, True),  # numbers wrap round
        (2**32 - 10, 0, 50, False),
    ],
)
def test_bytes_that_neither_end_has_are_noticed(sent: int, unacknowledged: int, received: int, bad: bool):
    connections = survey(pair(), TcpPolicy.AUTO, queues=True)
    one, other = (c.ino for c in connections)
    quiet = SimpleNamespace(outq_seq=7, outq_len=0, inq_seq=received)
    sender = SimpleNamespace(outq_seq=sent, outq_len=unacknowledged, inq_seq=7)
    found = torn(connections, {one: sender, other: quiet})
    assert (found is not None) == bad


def test_an_end_that_was_sent_and_not_acknowledged_counts_one():
    connections = survey(pair(state=State.FIN_WAIT1), TcpPolicy.AUTO, queues=True)
    one, other = (c.ino for c in connections)
    quiet = SimpleNamespace(outq_seq=7, outq_len=0, inq_seq=999)
    sender = SimpleNamespace(outq_seq=1000, outq_len=0, inq_seq=7)
    assert torn(connections, {one: sender, other: quiet}) is None
