"""Signals that a thread waits for."""

from __future__ import annotations

import json
import subprocess
import sys

FIRST = """
import os, signal, sys
from ckptrun.supervisor import signals
signals.block()
taken = []
watch = signals.Watch(lambda signum, _: taken.append(int(signum)))
os.kill(os.getpid(), signal.SIGTERM)
watch.end()
os.kill(os.getpid(), signal.SIGINT)
os.kill(os.getpid(), signal.SIGHUP)
print(taken, flush=True)
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""
NEXT = """
import signal
print(sorted(map(int, signal.sigpending())))
"""


def test_no_signal_is_lost_between_a_program_and_the_one_it_becomes() -> None:
    done = subprocess.run([sys.executable, "-c", FIRST, NEXT], capture_output=True, text=True, check=True)
    taken, pending = map(json.loads, done.stdout.splitlines())
    assert sorted(taken + pending) == [1, 2, 15]
    assert {1, 2} <= set(pending)
