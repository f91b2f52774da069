"""Connections that are still being made at a checkpoint: nobody has answered the first packet."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.run import Lab, Run

pytestmark = pytest.mark.slow

CONNECTING = """
import errno, os, select, socket, sys, threading, time
def say(*words): print(*words, flush=True)
def until(condition):
    while not condition(): time.sleep(0.01)
def connecting(end): return end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 2
if sys.argv[1] == "inside":
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)  # for one that waits; packets of others are dropped
    first = socket.create_connection(listener.getsockname())
    at = listener.getsockname()
else:
    at = ("127.0.0.1", int(sys.argv[1]))
waiting, polled = socket.socket(), socket.socket()
def connect():
    waiting.connect(at)
    say("the waiting one is connected")
thread = threading.Thread(target=connect)
thread.start()
polled.setblocking(False)
polled.connect_ex(at)
until(lambda: connecting(waiting) and connecting(polled))
say("connecting")
until(lambda: os.path.exists("go"))
if sys.argv[1] == "inside":
    answering = threading.Thread(target=lambda: [listener.accept()[0].sendall(b"hello") for _ in range(2)], daemon=True)
    answering.start()
poller = select.poll()
poller.register(polled, select.POLLOUT)
poller.poll()
code = polled.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
say("the polled one:", errno.errorcode.get(code, "connected"))
thread.join()
while len(data := waiting.recv(10, socket.MSG_PEEK)) < 5: assert data
say("the waiting one has", data.decode())
"""


def restored(lab: Lab, where: str, *options: str) -> Run:
    run = lab.start(sys.executable, "-c", CONNECTING, where, options=options)
    run.prints("connecting")
    run.checkpoint()
    run.restored(run.kill_job)
    (lab.work / "go").touch()
    return run


@pytest.fixture
def crowded() -> Iterator[socket.socket]:
    """A server outside of the job with as many connections waiting as may; it drops the packets of others."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as listener,
        socket.create_connection(listener.getsockname()),
    ):
        yield listener
        listener.shutdown(socket.SHUT_RDWR)  # whoever still waits in it is told


def answer(listener: socket.socket, count: int) -> None:
    """Accept so many connections, and say hello."""

    def work() -> None:
        with contextlib.suppress(OSError):
            for _ in range(count):
                connection, _ = listener.accept()
                connection.sendall(b"hello")

    threading.Thread(target=work, daemon=True).start()


@pytest.mark.parametrize("policy", ["auto", "keep"])
@pytest.mark.parametrize("where", ["outside", "inside"])
def test_a_thread_that_waits_to_be_connected_is_and_a_poller_is_told(
    lab: Lab, crowded: socket.socket, where: str, policy: str
):
    port = str(crowded.getsockname()[1])
    run = restored(lab, "inside" if where == "inside" else port, "--tcp", policy)
    answer(crowded, 2)
    result = run.wait()
    assert result.code == 0, result.err
    assert sorted(result.out.splitlines()) == [
        "connecting",
        "the polled one: ECONNRESET",
        "the waiting one has hello",
        "the waiting one is connected",
    ]
