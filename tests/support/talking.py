"""Jobs that talk over TCP, servers outside of the job for them, and a restore at a moment the job names."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.run import Lab, Run

OFTEN = ("--interval", "0.4s")
WAIT = """
import os, sys, time
def wait_for(name):
    while not os.path.exists(name): time.sleep(0.01)
def say(*words): print(*words, flush=True)
def pause(number, last):
    time.sleep(0.01)
    while number == last and os.path.exists("hold"): time.sleep(0.01)
"""
"""What jobs that are told when to go on begin with."""


ECHO_CLIENT = """
import socket
def connect(): return socket.create_connection(("127.0.0.1", int(sys.argv[1])))
def fail(): raise ConnectionError("an end of file")
connection, lost = connect(), []
for number in range(300):
    pause(number, 299)
    line = b"%d\\n" % number
    while True:
        try:
            connection.sendall(line)
            answer = b""
            while not answer.endswith(b"\\n"):
                answer += connection.recv(100) or fail()
        except OSError as error:
            lost.append(type(error).__name__)
            connection.close()
            connection = connect()
        else:
            break
    assert answer == line, (answer, line)
say("lost", *lost)
"""


HALF = """
import socket
listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
server, _ = listener.accept()
client.sendall(b"question")
client.shutdown(socket.SHUT_WR)
say("asked")
wait_for("go")
data = b""
while part := server.recv(3): data += part
server.sendall(data.upper())
server.close()
say(client.recv(100), client.recv(100))
"""


class Outside:
    """A server that is no part of the job: `serve` talks to each client in a thread of its own."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self.accepted = 0
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.accepted += 1
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            self._serve(connection)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextlib.contextmanager
def outside(serve: Callable[[socket.socket], None]) -> Iterator[Outside]:
    server = Outside(serve)
    try:
        yield server
    finally:
        server.close()


def echo(connection: socket.socket) -> None:
    while data := connection.recv(4096):
        connection.sendall(data)


def never_answer(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


def restored_at(lab: Lab, script: str, mark: str, *options: str) -> Run:
    """Run `script` until it says `mark`, take a checkpoint there, and restore it; it waits for the file `go`."""
    run = lab.start(sys.executable, "-c", WAIT + script, options=options)
    run.prints(mark)
    run.checkpoint()
    run.restored(run.kill_job)
    (lab.work / "go").touch()
    return run


def expect_to_reconnect(lab: Lab) -> None:
    """Run a client of an echo server outside through two restores; it must be told and reconnect each time."""
    with outside(echo) as server:
        lab.hold()
        run = lab.start(sys.executable, "-c", WAIT + ECHO_CLIENT, server.port)
        for connections in (1, 2):
            run.until("connection", lambda count=connections: server.accepted == count)
            run.checkpoint()
            run.restored(run.kill_job)
        run.until("connection", lambda: server.accepted == 3)
        result = run.finish()
        lost = "lost ConnectionResetError ConnectionResetError\n"
        assert (result.code, result.out) == (0, lost), result.err
        assert server.accepted == 3
        closed = f"1 connection to the outside came back closed: 127.0.0.1:{server.port}"
        assert result.err.count(closed) == 2
