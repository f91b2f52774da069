"""Processes with a PID that a test chooses: it asks the kernel for that one, whatever else is started meanwhile."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import time
from typing import TYPE_CHECKING

from support.processes import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE3 = 435
_WORDS = ("flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls", "set_tid")


class _CloneArgs(ctypes.Structure):
    """See clone3(2)."""

    _fields_ = tuple((name, ctypes.c_uint64) for name in (*_WORDS, "set_tid_size", "cgroup"))


def start(work: Callable[[], object] = lambda: None) -> int:
    """Start a process that does something and waits to be ended; return its PID."""
    return _run(os.fork(), work)


def start_as(pid: int, work: Callable[[], object] = lambda: None) -> None:
    """Start a process that has this PID; root only. Waits for whoever has taken it meanwhile."""
    number = (ctypes.c_int * 1)(pid)
    arguments = _CloneArgs(exit_signal=signal.SIGCHLD, set_tid=ctypes.addressof(number), set_tid_size=1)
    deadline = time.monotonic() + PATIENCE
    while (found := _LIBC.syscall(_CLONE3, ctypes.byref(arguments), ctypes.sizeof(arguments))) < 0:
        error = ctypes.get_errno()
        if error != errno.EEXIST or time.monotonic() > deadline:
            raise OSError(error, f"PID {pid} could not be had again")
        time.sleep(0.01)
    assert _run(found, work) == pid


def end(pid: int) -> None:
    """Kill a process of this one's, and wait for its end."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _run(pid: int, work: Callable[[], object]) -> int:
    """Return the PID in the parent; in the child do the work, and never return."""
    if pid == 0:
        try:
            work()
            signal.pause()
        finally:
            os._exit(1)
    return pid
