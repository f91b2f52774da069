"""Whose System V objects are: the kernel keeps the PIDs of users that have ended, and gives them to others."""

from __future__ import annotations

import ctypes
import os
import time

import pytest
from support.pids import end, start, start_as

from ckptrun.criu.remedies.sysv import used_by

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.shmat.restype = ctypes.c_void_p
IPC_RMID = 0

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can choose a PID")


def objects(pid: int, number: int) -> list[str]:
    return [found.label for found in used_by([pid]) if found.label.startswith(f"shmid {number},")]


def test_memory_of_a_process_that_has_ended_is_not_its_successors():
    number = LIBC.shmget(0, 4096, 0o600)
    try:
        pid = start(lambda: LIBC.shmat(number, None, 0))
        while not objects(pid, number):
            time.sleep(0.01)
        end(pid)
        ended = int(time.time())
        while int(time.time()) == ended:  # what the kernel tells of times is whole seconds
            time.sleep(0.01)
        time.sleep(0.1)
        start_as(pid)
        try:
            assert objects(pid, number) == []
        finally:
            end(pid)
    finally:
        LIBC.shmctl(number, IPC_RMID, None)
