"""Ports for servers of the tests."""

from __future__ import annotations

import os
import socket


def free_ports(count: int) -> list[int]:
    """Return loopback ports that nobody has now, below those that the kernel gives to whoever connects."""
    sockets: list[socket.socket] = []
    try:
        for port in range(15000 + os.getpid() * 37 % 15000, 32768):
            one = socket.socket()
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                one.close()
                continue
            sockets.append(one)
            if len(sockets) == count:
                break
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
