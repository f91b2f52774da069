"""A connection that keeps its locks after the hook has ended, from before the freeze until after the thaw.

A process of its own holds nothing but the connection's socket. It ends, and the server with it lets the locks go,
when the closing phase ends the connection, when ckptrun dies, or when its time is over, whichever comes first.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from typing import TYPE_CHECKING, Any

from tables import HOLDER

if TYPE_CHECKING:
    import psycopg

_NAME_BYTES = 63


def name(lineage: str) -> str:
    """Return the application_name of a lineage's holder."""
    return (HOLDER + lineage).encode()[:_NAME_BYTES].decode(errors="ignore")


def leave(connection: psycopg.Connection[Any], seconds: float) -> None:
    """Leave a process behind that keeps the connection open, and nothing else."""
    parent = None
    with contextlib.suppress(OSError, AttributeError):  # an old kernel: the time ends it
        parent = os.pidfd_open(os.getppid())
    if os.fork():
        # closing the connection says goodbye to the server: not to ours
        quiet = os.open(os.devnull, os.O_RDWR)
        os.dup2(quiet, connection.fileno())
        return
    try:
        os.setsid()
        quiet = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(quiet, descriptor)
        os.chdir("/")
        _hold(connection.fileno(), parent, time.monotonic() + seconds)
    finally:
        os._exit(0)


def _hold(server: int, parent: int | None, deadline: float) -> None:
    poller = select.poll()
    poller.register(server, select.POLLIN | select.POLLRDHUP)
    if parent is not None:
        poller.register(parent, select.POLLIN)
    poller.poll(max(0.0, deadline - time.monotonic()) * 1000)


def end(connection: psycopg.Connection[Any], lineage: str, pid: int | None = None) -> bool:
    """End the lineage's holders, or the one of this backend; tell whether there was one that still held its locks."""
    found = connection.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = %s AND (%s::int IS NULL OR pid = %s) AND state LIKE 'idle in transaction%%'",
        [name(lineage), pid, pid],
    ).fetchall()
    return bool(found)
