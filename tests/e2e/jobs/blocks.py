"""A job: two processes exchange numbered blocks over TCP, many in flight both ways; each prints a digest of what came.

``blocks.py BLOCKS HOST [PAUSE]``: a server on HOST is the parent, a forked child is the client.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import threading
import time
from pathlib import Path

HOLD = Path("hold")
"""While this file exists, nobody sends the last block."""
SIZE = 40_000


def block(who: str, number: int) -> bytes:
    """Return one block, like no other."""
    return hashlib.shake_128(f"{who} {number}".encode()).digest(SIZE)


def digest(who: str, blocks: int) -> str:
    """Return what the other end prints after an undisturbed run."""
    found = hashlib.sha256()
    for number in range(blocks):
        found.update(block(who, number))
    return f"from {who} {found.hexdigest()}"


def exchange(connection: socket.socket, me: str, other: str, blocks: int, pause: float) -> str:
    """Send and receive at once; return the digest of what was received."""

    def send() -> None:
        for number in range(blocks):
            while number == blocks - 1 and HOLD.exists():
                time.sleep(0.01)
            connection.sendall(block(me, number))
            if pause:
                time.sleep(pause)
        connection.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    received = hashlib.sha256()
    while data := connection.recv(9973):
        received.update(data)
    sender.join()
    return f"from {other} {received.hexdigest()}"


def main() -> None:
    blocks, host, pause = int(sys.argv[1]), sys.argv[2], float(sys.argv[3]) if sys.argv[3:] else 0.0
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.bind((host, 0))
    listener.listen()
    if os.fork() == 0:
        connection = socket.create_connection(listener.getsockname()[:2])
        line = exchange(connection, "client", "server", blocks, pause)
        print(line, flush=True)
        os._exit(0)
    connection, _ = listener.accept()
    line = exchange(connection, "server", "client", blocks, pause)
    os.wait()
    print(line, flush=True)


if __name__ == "__main__":
    main()
