"""Threads that must not get into the job's way. Called by `packing` and `writing`."""

from __future__ import annotations

import contextlib
import os
import threading

NICENESS = 10


def lower_priority() -> None:
    """Give the calling thread, and it alone, a low priority (Linux counts niceness by thread)."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
