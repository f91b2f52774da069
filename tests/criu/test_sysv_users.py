"""Whose System V objects are: the kernel keeps the PIDs of users that have ended, and gives them to others."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ckptrun.criu.remedies.sysv import used_by

if TYPE_CHECKING:
    from collections.abc import Callable

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.shmat.restype = ctypes.c_void_p
LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
IPC_RMID = 0
TRIES = 50

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can choose a PID")


def child(work: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
            signal.pause()
        finally:
            os._exit(1)
    return pid


def with_pid(pid: int) -> bool:
    """Start a process that does nothing; return whether it has got this PID (it is ended if not)."""
    LAST_PID.write_text(str(pid - 1))
    found = child(lambda: None)
    if found != pid:
        end(found)
    return found == pid


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def objects(pid: int, number: int) -> list[str]:
    return [found.label for found in used_by([pid]) if found.label.startswith(f"shmid {number},")]


def test_memory_of_a_process_that_has_ended_is_not_its_successors():
    number = LIBC.shmget(0, 4096, 0o600)
    try:
        pid = child(lambda: LIBC.shmat(number, None, 0))
        while not objects(pid, number):
            time.sleep(0.01)
        end(pid)
        ended = int(time.time())
        while int(time.time()) == ended:  # what the kernel tells of times is whole seconds
            time.sleep(0.01)
        time.sleep(0.1)
        assert any(with_pid(pid) for _ in range(TRIES)), "the PID could not be had again"
        try:
            assert objects(pid, number) == []
        finally:
            end(pid)
    finally:
        LIBC.shmctl(number, IPC_RMID, None)
