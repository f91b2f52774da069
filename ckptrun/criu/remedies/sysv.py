"""System V objects that a job uses: semaphores, message queues, shared memory. They are the machine's, not the job's.

CRIU saves them only with an IPC namespace of the tree's own, and says so of attached memory alone. What the kernel
knows of their users are the PIDs that created or last used them, and when: PIDs of users that have ended may be others'
by now. An object whose last users have ended is not found.
Used by `silent` and `procfacts`.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

_GETPID = 11
_FOLDER = "/proc/sysvipc"
_LIBC = ctypes.CDLL(None)
_TICK = 0.05
"""Seconds by which a start may be told too late."""


@dataclass(frozen=True, slots=True)
class SystemV:
    """One object and one of its users.

    Args:
        host_pid: of the user, as this machine counts.
        remedy: the name of its entry in the table.
        label: its kind, number and key, as ``ipcs`` shows them.
    """

    host_pid: int
    remedy: str
    label: str


def used_by(host_pids: Collection[int]) -> Iterator[SystemV]:
    """Yield the objects of this machine that one of these processes created or was the last to use.

    Three small files if there are none; a microsecond for each semaphore that there is.
    """
    mine = frozenset(host_pids)
    for row in _rows("sem"):
        last = max(int(row["otime"]), int(row["ctime"]))
        users = ((pid, last) for pid in _users_of_semaphores(int(row["semid"]), int(row["nsems"])))
        if pid := _first(mine, users):
            yield SystemV(pid, "sysv-semaphores", f"semid {row['semid']}, key {_key(row)}")
    for row in _rows("msg"):
        sent, received = (int(row["lspid"]), int(row["stime"])), (int(row["lrpid"]), int(row["rtime"]))
        if pid := _first(mine, (sent, received)):
            yield SystemV(pid, "sysv-queue", f"msqid {row['msqid']}, key {_key(row)}")
    for row in _rows("shm"):
        made, last = (int(row["cpid"]), int(row["ctime"])), max(int(row["atime"]), int(row["dtime"]))
        if pid := _first(mine, (made, (int(row["lpid"]), last))):
            yield SystemV(pid, "sysv-shm", f"shmid {row['shmid']}, key {_key(row)}")


def _rows(kind: str) -> Iterator[dict[str, str]]:
    try:
        with open(f"{_FOLDER}/{kind}", encoding="ascii") as file:  # noqa: PTH123 -- inside the freeze
            lines = file.read().splitlines()
    except OSError:
        return
    names = lines[0].split()
    for line in lines[1:]:
        yield dict(zip(names, line.split(), strict=False))


def _key(row: dict[str, str]) -> str:
    return f"{int(row['key']) & 0xFFFFFFFF:#010x}"


def _users_of_semaphores(semid: int, count: int) -> Iterator[int]:
    """Yield who changed each semaphore last; the kernel tells it those who may read the set."""
    for number in range(count):
        pid = _LIBC.semctl(semid, number, _GETPID)
        if pid < 0:
            return
        yield pid


def _first(mine: frozenset[int], users: Iterable[tuple[int, int]]) -> int:
    """Return the first of these PIDs that was already ours when the object was used, in seconds since the epoch."""
    return next((pid for pid, when in users if pid in mine and when >= _started(pid)), 0)


def _started(pid: int) -> int:
    """Return the second in which a process began, as far as the kernel's clock ticks tell."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 -- inside the freeze
            ticks = int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError):
        return sys.maxsize  # it has ended
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return int(booted + ticks / os.sysconf("SC_CLK_TCK") - _TICK)
