"""What CRIU would lose without a word: the checkpoint is refused by name, and the job runs on."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from support.run import COMMITTED

if TYPE_CHECKING:
    from support.run import Lab

pytestmark = pytest.mark.slow

WAITS = """
import ctypes, os, pathlib, signal, time
{setup}
print("ready", flush=True)
while not pathlib.Path("go").exists(): time.sleep(0.01)
{ending}
"""

ZOMBIE = (
    "pid = os.fork()\nif pid == 0: os._exit(200)\nos.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)",
    "print(os.waitpid(pid, 0)[1] >> 8)",
)
SEMAPHORE = (
    "fd = os.eventfd(2, os.EFD_SEMAPHORE)",
    "print([os.eventfd_read(fd) for _ in range(2)])",
)
REMOVED = (
    """
file = open("a", "w+")
file.write("content")
file.flush()
os.link("a", "b")
os.unlink("a")
""",
    "print(open('b').read(), file.seek(0), file.read())",
)
THREAD_CLOCK = (
    """
import struct, threading
number, made = ctypes.c_int(), threading.Event()
def work():
    create = {"x86_64": 222, "aarch64": 107}[os.uname().machine]
    event = struct.pack("Qiii44x", 0, signal.SIGUSR1, 0, 0)
    assert ctypes.CDLL(None).syscall(create, time.CLOCK_THREAD_CPUTIME_ID, event, ctypes.byref(number)) == 0
    made.set()
    while not pathlib.Path("go").exists(): time.sleep(0.01)
threading.Thread(target=work).start()
made.wait()
""",
    "print('done')",
)
BELOW = (
    """
pipe = os.pipe()
if os.fork() == 0:
    ctypes.CDLL(None).prctl(36, 1)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(pipe[1], b"x")
            signal.alarm(60)
            signal.pause()
        os._exit(0)
    os.wait()
    os.read(pipe[0], 1)
    os.write(pipe[1], b"y")
    signal.alarm(60)
    signal.pause()
while os.read(pipe[0], 1) != b"y": os.write(pipe[1], b"x")
""",
    "print('done')",
)


@pytest.mark.parametrize(
    ("job", "name", "thing", "out"),
    [
        pytest.param(ZOMBIE, "process 1002 (python", "exit code over 127", "200", id="zombie"),
        pytest.param(SEMAPHORE, "process 1001 (python", "in semaphore mode (fd 3)", "[1, 1]", id="semaphore"),
        pytest.param(
            BELOW, "process 1004 (python", "child-subreaper of the job's own", "done", id="subreaper"
        ),
        pytest.param(
            THREAD_CLOCK,
            "process 1001 (python",
            "processor time of a single thread",
            "done",
            id="thread clock",
        ),
        pytest.param(REMOVED, "/a", "whose name was removed", "content 0 content", id="removed name"),
    ],
)
def test_it_is_named_and_the_job_runs_on(lab: Lab, job: tuple[str, str], name: str, thing: str, out: str):
    run = lab.start(sys.executable, "-c", WAITS.format(setup=job[0], ending=job[1]))
    run.refused(name, thing)
    (lab.work / "go").touch()
    result = run.wait()
    assert (result.code, result.out) == (0, f"ready\n{out}\n"), result.err
    assert lab.events(COMMITTED) == []
