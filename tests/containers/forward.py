"""Serve a port of a container's loopback with the same port of this machine's.

    python forward.py PID PORT

The socket that listens is made in PID's network namespace and belongs to it; what it accepts is connected from
here. So a pod reaches a server of the tests without a bridge, which would change the machine's firewall.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import sys
import threading
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_PIECE = 1 << 20


def _enter(namespace: Path) -> None:
    with namespace.open("rb") as file:
        if _LIBC.setns(file.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}")


def _listen(pid: int, port: int) -> socket.socket:
    with Path("/proc/self/ns/net").open("rb") as own:
        _enter(Path(f"/proc/{pid}/ns/net"))
        try:
            return socket.create_server(("127.0.0.1", port), backlog=128)
        finally:
            _LIBC.setns(own.fileno(), _CLONE_NEWNET)


def _pump(source: socket.socket, target: socket.socket) -> None:
    piece = memoryview(bytearray(_PIECE))
    with contextlib.suppress(OSError):
        while count := source.recv_into(piece):
            target.sendall(piece[:count])
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _serve(client: socket.socket, port: int) -> None:
    with client, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as server:
        back = threading.Thread(target=_pump, args=(server, client), daemon=True)
        back.start()
        _pump(client, server)
        back.join()


def main(pid: int, port: int) -> None:
    listener = _listen(pid, port)
    print("ready", flush=True)
    while True:
        client, _ = listener.accept()
        threading.Thread(target=_serve, args=(client, port), daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
