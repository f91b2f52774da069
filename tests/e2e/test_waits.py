"""Waits with a time-out: every checkpoint interrupts their system calls; programs that go on waiting lose nothing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.run import Lab

pytestmark = pytest.mark.slow

OFTEN = ("--interval", "0.4s")

BARE = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
print(libc.poll(None, 0, 60000), errno.errorcode[ctypes.get_errno()])
"""

PYTHON = """
import pathlib, queue, select, threading, time
waits = {
    "event": lambda: threading.Event().wait(0.5),
    "queue": lambda: queue.Queue().get(timeout=0.5),
    "select": lambda: select.select([], [], [], 0.5),
    "sleep": lambda: time.sleep(0.5),
}
def measure(name):
    while True:
        start = time.monotonic()
        try:
            waits[name]()
        except queue.Empty:
            pass
        shortest[name] = min(shortest.get(name, 60), time.monotonic() - start)
        if pathlib.Path("enough").exists():
            return
shortest = {}
threads = [threading.Thread(target=measure, args=(name,)) for name in waits]
for thread in threads: thread.start()
for thread in threads: thread.join()
print([name for name in waits if shortest[name] >= 0.5])
"""


def test_a_wait_with_a_time_out_is_interrupted_without_a_signal(lab: Lab):
    result = lab.run(sys.executable, "-c", BARE, options=OFTEN)
    assert (result.code, result.out) == (0, "-1 EINTR\n"), result.err


def test_waits_of_python_last_as_long_as_they_should(lab: Lab):
    run = lab.start(sys.executable, "-c", PYTHON, options=OFTEN)
    run.commit(2)
    run.restored(run.kill_job)
    run.commit(2)
    (lab.work / "enough").touch()
    result = run.wait()
    assert (result.code, result.out) == (0, "['event', 'queue', 'select', 'sleep']\n"), result.err
