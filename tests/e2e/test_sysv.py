"""System V objects are the machine's: a checkpoint of a job that uses one is refused by name, and the job runs on."""

from __future__ import annotations

import ctypes
import secrets
import sys
from typing import TYPE_CHECKING

import pytest
from support.run import COMMITTED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.run import Lab

pytestmark = pytest.mark.slow

LIBC = ctypes.CDLL(None)
IPC_RMID = 0

JOB = """
import ctypes, os, pathlib, sys, time
LIBC = ctypes.CDLL(None, use_errno=True)
def checked(result):
    if result < 0: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
KEY = int(sys.argv[1])
{setup}
print("ready", flush=True)
while not pathlib.Path("go").exists(): time.sleep(0.01)
{ending}
"""

SEMAPHORES = (
    """
number = checked(LIBC.semget(KEY, 2, 0o1600))
checked(LIBC.semop(number, (ctypes.c_short * 3)(1, 3, 0), 1))
""",
    "print(LIBC.semctl(number, 1, 12)); checked(LIBC.semctl(number, 0, 0))",
)
QUEUE = (
    """
number = checked(LIBC.msgget(KEY, 0o1600))
checked(LIBC.msgsnd(number, ctypes.create_string_buffer(bytes([1, 0, 0, 0, 0, 0, 0, 0]) + b"hello"), 5, 0))
""",
    """
got = ctypes.create_string_buffer(13)
checked(LIBC.msgrcv(number, got, 5, 0, 0))
print(got.raw[8:].decode()); checked(LIBC.msgctl(number, 0, None))
""",
)
DETACHED = (
    """
number = checked(LIBC.shmget(KEY, 4096, 0o1600))
LIBC.shmat.restype = ctypes.c_void_p
at = LIBC.shmat(number, None, 0)
ctypes.memmove(at, b"shared", 6)
checked(LIBC.shmdt(ctypes.c_void_p(at)))
""",
    "print(ctypes.string_at(LIBC.shmat(number, None, 0)).decode()); checked(LIBC.shmctl(number, 0, None))",
)
ATTACHED = (
    """
number = checked(LIBC.shmget(KEY, 4096, 0o1600))
LIBC.shmat.restype = ctypes.c_void_p
at = LIBC.shmat(number, None, 0)
ctypes.memmove(at, b"shared", 6)
""",
    "print(ctypes.string_at(at).decode()); checked(LIBC.shmctl(number, 0, None))",
)


@pytest.fixture
def key() -> Iterator[int]:
    """A key that nobody on this machine uses; what a job leaves under it is removed."""
    key = secrets.randbits(30) + 1
    yield key
    for get, remove in (
        (LIBC.semget(key, 0, 0), lambda number: LIBC.semctl(number, 0, IPC_RMID)),
        (LIBC.msgget(key, 0), lambda number: LIBC.msgctl(number, IPC_RMID, None)),
        (LIBC.shmget(key, 0, 0), lambda number: LIBC.shmctl(number, IPC_RMID, None)),
    ):
        if get >= 0:
            remove(get)


@pytest.mark.parametrize(
    ("job", "thing", "out"),
    [
        pytest.param(SEMAPHORES, "uses System V semaphores (semid ", "3", id="semaphores"),
        pytest.param(QUEUE, "uses a System V message queue (msqid ", "hello", id="queue"),
        pytest.param(DETACHED, "uses System V shared memory (shmid ", "shared", id="detached memory"),
        pytest.param(ATTACHED, "uses System V shared memory", "shared", id="attached memory"),
    ],
)
def test_it_is_named_and_the_job_runs_on(lab: Lab, key: int, job: tuple[str, str], thing: str, out: str):
    run = lab.start(sys.executable, "-c", JOB.format(setup=job[0], ending=job[1]), key)
    run.refused("process 1001 (python", thing, f"key {key:#010x}" if "id " in thing else "")
    (lab.work / "go").touch()
    result = run.wait()
    assert (result.code, result.out) == (0, f"ready\n{out}\n"), result.err
    assert lab.events(COMMITTED) == []


def test_once_they_are_removed_a_checkpoint_is_taken(lab: Lab, key: int):
    setup = SEMAPHORES[0] + "checked(LIBC.semctl(number, 0, 0))"
    run = lab.start(sys.executable, "-c", JOB.format(setup=setup, ending="print('done')"), key)
    run.prints("ready\n")
    run.checkpoint()
    (lab.work / "go").touch()
    assert run.wait().code == 0


def test_those_of_others_are_no_hindrance(lab: Lab, key: int):
    number = LIBC.semget(key, 1, 0o1600)
    assert LIBC.semop(number, (ctypes.c_short * 3)(0, 1, 0), 1) == 0
    run = lab.start(sys.executable, "-c", JOB.format(setup="", ending="print('done')"), key)
    run.prints("ready\n")
    run.checkpoint()
    (lab.work / "go").touch()
    assert run.wait().code == 0
