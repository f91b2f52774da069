"""The kernel's part: packets that are dropped for a moment, leftovers of killed connections, connections to reset."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from live import descriptors
from support.processes import PATIENCE

from ckptrun.criu import leftovers, ownrights
from ckptrun.criu.connections import LOST, End
from ckptrun.criu.failed import failed
from ckptrun.criu.lostpeer import LostPeer
from ckptrun.criu.portlock import PortLock

if TYPE_CHECKING:
    from collections.abc import Iterator

Pair = tuple[socket.socket, socket.socket]

needs_net_admin = pytest.mark.skipif(
    ownrights.rights() is not ownrights.Rights.FULL, reason="needs root with NET_ADMIN"
)


@pytest.fixture(params=["127.0.0.1", "::1"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.create_server((request.param, 0), family=family) as listener:
        client = socket.create_connection(listener.getsockname()[:2])
        server, _ = listener.accept()
    with client, server:
        server.settimeout(PATIENCE)
        client.settimeout(PATIENCE)
        yield client, server


def ends(pair: Pair) -> list[tuple[End, End]]:
    one, other = (End(socket.inet_pton(s.family, s.getsockname()[0]), s.getsockname()[1]) for s in pair)
    return [(one, other), (other, one)]


@needs_net_admin
def test_a_locked_connection_carries_nothing_until_the_lock_is_closed(pair: Pair):
    client, server = pair
    with closing(PortLock(ends(pair))):
        client.sendall(b"x")
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.recv(1)
    server.settimeout(PATIENCE)
    assert server.recv(1) == b"x", "TCP sends it again"


@needs_net_admin
def test_a_lock_touches_no_other_connection(pair: Pair):
    one, other = ends(pair)[0]
    with closing(
        PortLock([(one, End(other.address, other.port ^ 1)), (End(one.address, one.port ^ 1), other)])
    ):
        pair[0].sendall(b"x")
        assert pair[1].recv(1) == b"x"


@needs_net_admin
def test_a_lock_of_many_connections_is_one_too(pair: Pair):
    one, other = ends(pair)[0]
    many = [(one, End(other.address, port)) for port in range(1, 500) if port != other.port]
    with closing(PortLock([*many, (one, other)])):
        pair[0].sendall(b"x")
        pair[1].settimeout(0.2)
        with pytest.raises(TimeoutError):
            pair[1].recv(1)


HOLDER = """
import sys, time
from ckptrun.criu.connections import End
from ckptrun.criu.portlock import PortLock
lock = PortLock([(End(bytes.fromhex(a), int(p)), End(bytes.fromhex(b), int(q))) for a, p, b, q in [sys.argv[1:]]])
print("locked", flush=True)
time.sleep(1000)
"""


@needs_net_admin
def test_a_lock_does_not_outlive_a_process_that_is_killed(pair: Pair):
    one, other = ends(pair)[0]
    words = [one.address.hex(), str(one.port), other.address.hex(), str(other.port)]
    argv = [sys.executable, "-c", HOLDER, *words]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        pair[0].sendall(b"x")
        pair[1].settimeout(0.2)
        with pytest.raises(TimeoutError):
            pair[1].recv(1)
        holder.send_signal(signal.SIGKILL)
    pair[1].settimeout(PATIENCE)
    assert pair[1].recv(1) == b"x"


@needs_net_admin
def test_what_the_kernel_keeps_of_a_closed_connection_is_removed_and_its_port_is_free(pair: Pair):
    client, server = pair
    family, address, known = server.family, server.getsockname()[:2], ends(pair)
    server.close()
    client.close()
    again = socket.socket(family)
    with again:
        with pytest.raises(OSError, match="in use"):  # TIME-WAIT
            again.bind(address)
        leftovers.clear(known, set())
        again.bind(address)


@needs_net_admin
@pytest.mark.parametrize("wildcard", [False, True])
def test_leftovers_at_a_port_where_the_job_listens_are_removed(pair: Pair, wildcard: bool):
    client, server = pair
    family, address = server.family, server.getsockname()[:2]
    here = ends(pair)[1][0]
    server.close()
    client.close()
    leftovers.clear([], {End(bytes(len(here.address)), here.port) if wildcard else here})
    with socket.socket(family) as again:
        again.bind(address)


@needs_net_admin
def test_connections_that_somebody_holds_are_no_leftovers(pair: Pair):
    client, server = pair
    client.shutdown(socket.SHUT_WR)
    leftovers.clear(ends(pair), {ends(pair)[1][0]})
    assert server.recv(1) == b""
    server.sendall(b"x")
    assert client.recv(1) == b"x"


def test_an_end_whose_process_has_closed_it_with_bytes_under_way_is_told(pair: Pair):
    client, server = pair
    known = ends(pair)[0]
    client.settimeout(0)
    with contextlib.suppress(BlockingIOError):
        while True:
            client.send(bytes(1 << 16))
    assert known not in leftovers.leaving()
    client.close()
    assert known in leftovers.leaving()
    server.close()
    assert known not in leftovers.leaving(), "it was reset"


def test_an_error_that_nobody_was_told_is_seen_and_stays(pair: Pair):
    client, server = pair
    inode = os.fstat(client.fileno()).st_ino
    client.sendall(b"x")
    assert inode not in failed([os.getpid()])
    server.close()  # with something unread: a reset
    assert inode in failed([os.getpid()])
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert inode not in failed([os.getpid()])


@pytest.mark.parametrize("only6", [False, True])
def test_who_connects_to_the_lost_peer_is_reset_when_it_closes(only6: bool):
    host = "::1" if only6 else socket.inet_ntoa(LOST)
    with closing(LostPeer({only6: 1})) as peer:
        (port,) = peer.ports[only6]
        clients = [socket.create_connection((host, port), PATIENCE) for _ in range(20)]
    for client in clients:
        with client, pytest.raises(ConnectionResetError):
            client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, port), PATIENCE)


def test_there_is_a_lost_peer_for_more_connections_than_may_wait_at_one_socket():
    with closing(LostPeer({False: 3 * 4096 + 1})) as peer:
        assert len(set(peer.ports[False])) == len(peer.ports[False]) >= 1
        limit = int(Path("/proc/sys/net/core/somaxconn").read_text())
        assert len(peer.ports[False]) * limit > 3 * 4096


def test_the_lost_peer_leaves_nothing_behind():
    before = descriptors()
    for _ in range(3):
        LostPeer({False: 1, True: 1}).close()
    assert descriptors() == before
