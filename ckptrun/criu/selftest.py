"""Dump a process of our own that holds TCP sockets, and say what CRIU made of it.

Run as a program by :mod:`ckptrun.criu.probe` inside fresh namespaces, with the standard library only, so that
no process, port or firewall rule of the machine is touched.
Usage: ``selftest.py FOLDER OWN_NETWORK OPTION… -- CRIU…``, OWN_NETWORK being ``yes`` or ``no``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys

_SIOCSIFFLAGS = 0x8914
_UP_AND_RUNNING = 0x1 | 0x40
_VICTIM_LIFE = 60  # seconds; it is killed long before


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _UP_AND_RUNNING))


def _victim(ready: int) -> None:
    """Hold a listening socket and both ends of a connection to it, and no other descriptor."""
    os.setsid()
    listening = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listening.getsockname())
    server, _ = listening.accept()
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.write(ready, b"x")
    kept = {0, 1, 2, listening.fileno(), client.fileno(), server.fileno()}
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - pathlib would import more
        if int(name) not in kept:
            with contextlib.suppress(OSError):  # the descriptor of the listing itself
                os.close(int(name))
    signal.alarm(_VICTIM_LIFE)
    signal.pause()
    os._exit(0)


def main(argv: list[str]) -> int:
    """Return CRIU's exit status; its log is left in the folder as ``dump.log``."""
    separator = argv.index("--")
    folder, own_network, *options = argv[:separator]
    criu = argv[separator + 1 :]
    if own_network == "yes":
        _raise_loopback()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _victim(writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as ready:
        if ready.read() != b"x":  # ends when the victim has closed its last spare descriptor
            return 1
    command = [*criu, "dump", "--tree", str(pid), "--images-dir", folder, "--log-file", "dump.log", "-v4"]
    done = subprocess.run([*command, *options, "--timeout", "20", "--manage-cgroups=ignore"], check=False)
    with contextlib.suppress(ProcessLookupError):  # a dump ends what it dumped
        os.kill(pid, signal.SIGKILL)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
