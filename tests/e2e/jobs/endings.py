"""Brings one TCP connection of its own into a state, waits for the file ``go``, and reads both ends to their ends.

Words: ``a`` is the client, ``b`` the server's end. ``a>1000`` sends so many bytes, ``a>full`` as many as fit,
``a.shut`` closes one way, ``a.close`` altogether, ``a.read`` reads what is there; ``a=CLOSE_WAIT`` waits for a state,
also of an end that no process holds any more.
"""

import fcntl
import hashlib
import socket
import sys
import termios
import time
from pathlib import Path

STATES = ["-", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2"]
STATES += ["TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING"]
PIECE = bytes(range(251)) * 40


def state(name: str) -> str:
    """Return the state of an end; one without a socket is looked for among all."""
    end = ends[name]
    if end.fileno() >= 0:
        return STATES[end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]]
    ports = [f":{port:04X}" for port in (ports_of[name], ports_of["b" if name == "a" else "a"])]
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines():
            words = line.split()
            if words[1].endswith(ports[0]) and words[2].endswith(ports[1]):
                return STATES[int(words[3], 16)]
    return "gone"


class Tally:
    """Counts and digests bytes."""

    def __init__(self) -> None:
        self.count = 0
        self._digest = hashlib.sha256()

    def add(self, data: bytes) -> None:
        self.count += len(data)
        self._digest.update(data)

    def __str__(self) -> str:
        return f"{self.count} bytes {self._digest.hexdigest()[:8]}"


def fill(end: socket.socket, sent: Tally) -> None:
    """Send until nothing more is taken, for so long that nothing moves any more."""
    end.setblocking(False)
    quiet = 0
    while quiet < 20:
        try:
            sent.add(PIECE[: end.send(PIECE)])
            quiet = 0
        except BlockingIOError:
            quiet += 1
            time.sleep(0.01)
    end.setblocking(True)


def act(word: str) -> None:
    name = word[0]
    end, operation = ends[name], word[1:]
    if operation == ">full":
        fill(end, sent[name])
    elif operation[0] == ">":
        data = (PIECE * 100)[: int(operation[1:])]
        end.sendall(data)
        sent[name].add(data)
    elif operation == ".shut":
        end.shutdown(socket.SHUT_WR)
    elif operation == ".close":
        end.close()
    elif operation == ".read":
        end.recv(1 << 20)
    else:
        deadline = time.monotonic() + 20
        while state(name) != operation[1:]:
            assert time.monotonic() < deadline, f"{name} is {state(name)}, not {operation[1:]}"
            time.sleep(0.01)


def queued(end: socket.socket, request: int) -> int:
    """Return how many bytes lie unread at an end (FIONREAD), or are unacknowledged by the other (TIOCOUTQ)."""
    return int.from_bytes(fcntl.ioctl(end, request, bytes(4)), sys.byteorder)


def silent(name: str) -> bool:
    """Tell that nothing will come to an end: the other has not said its last word, and none is under way."""
    end, other = ends[name], ends["b" if name == "a" else "a"]
    if other.fileno() < 0 or state("b" if name == "a" else "a") not in {"ESTABLISHED", "CLOSE_WAIT"}:
        return False
    return not queued(other, termios.TIOCOUTQ) and not queued(end, termios.FIONREAD)  # in this order


def rest(name: str) -> str:
    """Return what can still be read of an end, and how it ends; how much fits into a connection is the kernel's."""
    got = Tally()
    how = last(name, got)
    whole = got.count and str(got) == str(sent["b" if name == "a" else "a"])
    return f"{'all that was sent' if whole else got}, then {how}"


def last(name: str, got: Tally) -> str:
    """Read an end to its end, and return what that is."""
    end = ends[name]
    deadline = time.monotonic() + 10
    end.settimeout(0.1)
    while True:
        try:
            data = end.recv(1 << 16)
        except TimeoutError:
            if silent(name):
                return "silence"
            if time.monotonic() > deadline:
                return "nothing for too long"
            continue
        except OSError as error:
            return type(error).__name__
        if not data:
            return "the end"
        got.add(data)
        deadline = time.monotonic() + 10


host, *words = sys.argv[1:]
listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
if ":" in host:
    assert listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
client = socket.create_connection(listener.getsockname()[:2])
ends = {"a": client, "b": listener.accept()[0]}
sent = {"a": Tally(), "b": Tally()}
ports_of = {"a": client.getsockname()[1], "b": listener.getsockname()[1]}
for word in words:
    act(word)
print("ready", flush=True)
while not Path("go").exists():
    time.sleep(0.01)
for name, end in ends.items():
    if end.fileno() >= 0:
        print(f"{name}: {rest(name)}", flush=True)
