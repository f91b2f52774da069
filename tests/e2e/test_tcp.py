"""Connections of a job that is killed and restored: its own survive byte for byte, others come back closed."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from jobs import blocks
from support.talking import HALF, OFTEN, WAIT, expect_to_reconnect, never_answer, outside, restored_at

if TYPE_CHECKING:
    from support.run import Lab

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("held")]

JOBS = Path(__file__).parent / "jobs"


def own_address() -> str:
    """Return an address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has no address but loopback")
        return str(probe.getsockname()[0])


def outcome(count: int) -> list[str]:
    return sorted([blocks.digest("client", count), blocks.digest("server", count)])


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "own"])
def test_heavy_traffic_both_ways_inside_the_job_is_exact_after_restores(lab: Lab, host: str):
    count = 8000
    host = own_address() if host == "own" else host
    run = lab.start(sys.executable, JOBS / "blocks.py", count, host, options=OFTEN)
    for _ in range(2):
        run.commit()
        run.restored(run.kill_job)
    result = run.finish()
    assert result.code == 0, result.err
    assert sorted(result.out.splitlines()) == outcome(count)
    assert "closed" not in result.err


def test_ten_restores_in_a_row_of_a_connection_inside_the_job_are_exact(lab: Lab):
    count = 700
    run = lab.start(sys.executable, JOBS / "blocks.py", count, "127.0.0.1", "0.02", options=OFTEN)
    for _ in range(10):
        run.commit()
        run.restored(run.kill_job)
    result = run.finish()
    assert result.code == 0, result.err
    assert sorted(result.out.splitlines()) == outcome(count)
    assert len(lab.events("job-restored")) == 10


def test_a_client_of_a_server_outside_reconnects_and_finishes(lab: Lab):
    expect_to_reconnect(lab)


WAITING = """
import selectors, socket, threading
port = int(sys.argv[1])
reader, watched, poller = (socket.create_connection(("127.0.0.1", port)) for _ in range(3))
def read():
    try: say("read", len(reader.recv(10)))
    except OSError as error: say("read", type(error).__name__)
def watch():
    selector = selectors.EpollSelector()
    selector.register(watched, selectors.EVENT_READ)
    selector.select()
    try: say("watched", len(watched.recv(10)))
    except OSError as error: say("watched", type(error).__name__)
threads = [threading.Thread(target=target) for target in (read, watch)]
for thread in threads: thread.start()
say("waiting")
for thread in threads: thread.join()
try:
    poller.sendall(b"x")
    poller.sendall(b"x")
except OSError as error: say("write", type(error).__name__)
"""


def test_whoever_waits_for_a_connection_to_the_outside_wakes_up_and_is_told(lab: Lab):
    with outside(never_answer) as server:
        run = lab.start(sys.executable, "-c", WAIT + WAITING, server.port)
        run.prints("waiting")
        run.checkpoint()
        run.restored(run.kill_job)
        result = run.wait()
    assert result.code == 0, result.err
    lines = sorted(result.out.splitlines())
    assert lines == [
        "read ConnectionResetError",
        "waiting",
        "watched ConnectionResetError",
        "write ConnectionResetError",
    ]
    assert f"3 connections to the outside came back closed: 127.0.0.1:{server.port} (3)" in result.err


COMPLETE = """
import socket
connection = socket.create_connection(("127.0.0.1", PORT))
import fcntl, termios, struct
while struct.unpack("i", fcntl.ioctl(connection, termios.FIONREAD, bytes(4)))[0] < 50000: time.sleep(0.01)
while open("/proc/self/net/tcp").read().count(":%04X 08 " % PORT) == 0: time.sleep(0.01)
say("arrived")
wait_for("go")
data = b""
while part := connection.recv(4000): data += part
say(len(data), data == bytes(range(250)) * 200)
try:
    for _ in range(2): connection.sendall(b"x")
except OSError as error: say(type(error).__name__)
"""


def test_a_whole_answer_from_outside_that_nobody_has_read_yet_can_be_read(lab: Lab):
    with outside(lambda connection: connection.sendall(bytes(range(250)) * 200)) as server:
        run = restored_at(lab, COMPLETE.replace("PORT", str(server.port)), "arrived")
        result = run.wait()
    assert (result.code, result.out) == (0, "arrived\n50000 True\nBrokenPipeError\n"), result.err


PENDING = """
import socket
listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
client.sendall(b"early")
say("connected")
wait_for("go")
try: say("client", client.recv(10))
except OSError as error: say("client", type(error).__name__)
late = socket.create_connection(listener.getsockname())
late.sendall(b"late")
server, _ = listener.accept()
say("server", server.recv(10))
"""


def test_a_connection_inside_the_job_that_nobody_has_accepted_is_reset_not_lost(lab: Lab):
    run = restored_at(lab, PENDING, "connected")
    result = run.wait()
    assert (result.code, result.out) == (0, "connected\nclient ConnectionResetError\nserver b'late'\n"), (
        result.err
    )
    assert "1 connection inside the job came back closed: 127.0.0.1:" in result.err


def test_a_connection_closed_one_way_inside_the_job_goes_on_the_other_way(lab: Lab):
    run = restored_at(lab, HALF, "asked")
    result = run.wait()
    assert (result.code, result.out) == (0, "asked\nb'QUESTION' b''\n"), result.err


def test_all_connections_come_back_closed_if_told_so(lab: Lab):
    run = restored_at(lab, HALF, "asked", "--tcp", "close", "--max-restarts", "1")
    result = run.wait()
    assert result.code == 1
    assert "ConnectionResetError" in result.err


HTTP = """
import http.client, http.server, threading
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))[::-1]
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
if os.fork() == 0:
    server.serve_forever()
server.server_close()
client = http.client.HTTPConnection(*server.server_address)
client.connect()
first = client.sock
for number in range(250):
    pause(number, 249)
    client.request("POST", "/", body=b"%d" % number * 1000)
    assert client.getresponse().read() == (b"%d" % number * 1000)[::-1]
say("same connection", client.sock is first)
"""

MANAGER = """
from multiprocessing.managers import BaseManager
class Adder:
    def __init__(self): self.total = 0
    def add(self, n): self.total += n; return self.total
class Manager(BaseManager): pass
Manager.register("Adder", Adder)
if __name__ == "__main__":
    manager = Manager(address=("127.0.0.1", 0), authkey=b"k")
    manager.start()
    adder = manager.Adder()
    for number in range(250):
        pause(number, 249)
        last = adder.add(number)
    say("sum", last)
    manager.shutdown()
"""

UDP = """
import socket
a, b = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in "ab")
for s in a, b: s.bind(("127.0.0.1", 0)); s.settimeout(0.2)
a.connect(b.getsockname()); b.connect(a.getsockname())
if os.fork() == 0:
    while True:
        try: b.send(b.recv(100)[::-1])
        except OSError: pass
for number in range(250):
    pause(number, 249)
    while True:  # a datagram may be lost, at a checkpoint too
        try:
            a.send(b"%d" % number)
            if a.recv(100)[::-1] == b"%d" % number: break
        except OSError: pass
say("answers", number + 1)
"""

UNIX = """
import socket
kinds = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET
pairs = [socket.socketpair(socket.AF_UNIX, kind) for kind in kinds]
if os.fork() == 0:
    while True:
        for _, b in pairs: b.send(b.recv(100)[::-1])
for number in range(250):
    pause(number, 249)
    for a, _ in pairs:
        a.send(b"<%d>" % number)
        assert a.recv(100)[::-1] == b"<%d>" % number
say("answers", number + 1)
"""

NETLINK = """
import socket, struct
n = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
n.bind((0, 0))
def links():
    found = 0
    n.send(struct.pack("=IHHII", 32, 18, 0x301, 1, 0) + bytes(16))
    while True:
        data = n.recv(1 << 16)
        while data:
            length, kind = struct.unpack_from("=IH", data)
            if kind == 3: return found
            found += 1
            data = data[length + 3 & ~3:]
first = links()
for number in range(250):
    pause(number, 249)
    assert links() == first
say("same links", first > 0)
"""


@pytest.mark.parametrize(
    ("script", "last"),
    [
        (HTTP, "same connection True"),
        (MANAGER, f"sum {sum(range(250))}"),
        (UDP, "answers 250"),
        (UNIX, "answers 250"),
        (NETLINK, "same links True"),
    ],
    ids=["http keep-alive", "manager", "udp", "unix", "netlink"],
)
def test_processes_of_a_job_go_on_talking_after_restores(lab: Lab, script: str, last: str):
    (lab.work / "job.py").write_text(WAIT + script, encoding="utf-8")
    run = lab.start(sys.executable, "job.py", options=OFTEN)
    for _ in range(2):
        run.commit()
        run.restored(run.kill_job)
    result = run.finish()
    assert (result.code, result.out) == (0, f"{last}\n"), result.err


def test_connections_inside_the_job_survive_where_all_are_kept(lab: Lab):
    run = restored_at(lab, HALF, "asked", "--tcp", "keep")
    result = run.wait()
    assert (result.code, result.out) == (0, "asked\nb'QUESTION' b''\n"), result.err


def test_a_run_may_close_what_an_earlier_one_saved(lab: Lab):
    run = lab.start(sys.executable, "-c", WAIT + HALF)
    run.prints("asked")
    run.checkpoint()
    run.kill_supervisor()
    (lab.work / "go").touch()
    again = lab.run(sys.executable, "-c", WAIT + HALF, options=["--tcp", "close", "--max-restarts", "0"])
    assert again.code == 1
    assert "ConnectionResetError" in again.err
