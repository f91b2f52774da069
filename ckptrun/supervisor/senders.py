"""Which senders of datagrams belong to the job. To climb from a process to the capsule's init costs 0.1 ms, every time.

A process that was found below init stays there until it ends, so one that is known is only asked whether it lives: its
pidfd says so, and means that process for ever, whoever gets its PID.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections import OrderedDict

from ckptrun.capsule.processes import is_below

KNOWN = 64
"""Processes that are remembered, each with a descriptor."""


class Senders:
    """The processes below one capsule's init. Any thread."""

    def __init__(self) -> None:
        self._init = 0
        self._lock = threading.Lock()
        self._known: OrderedDict[int, tuple[int, select.poll]] = OrderedDict()

    def begin(self, init_pid: int) -> None:
        """Forget every process; those below this one are the job's from now on. 0: none is."""
        with self._lock:
            self._init = init_pid
            while self._known:
                self._forget(next(iter(self._known)))

    def has(self, pid: int) -> bool:
        """Tell whether a process, or a zombie that is left of it, is the job's."""
        with self._lock:
            return self._has(pid)

    def _has(self, pid: int) -> bool:
        known = self._known.get(pid)
        if known is not None:
            if not known[1].poll(0):
                self._known.move_to_end(pid)
                return True
            self._forget(pid)
        if not self._init:
            return False
        fd = -1
        with contextlib.suppress(OSError):  # it has ended, or there are no descriptors left
            fd = os.pidfd_open(pid)
        if not is_below(pid, self._init):
            if fd >= 0:
                os.close(fd)
            return False
        if fd >= 0:
            self._remember(pid, fd)
        return True

    def _remember(self, pid: int, fd: int) -> None:
        """Keep a process, unless it ended before it was found below init: another one may have been found there."""
        ended = select.poll()
        ended.register(fd, select.POLLIN)
        if ended.poll(0):
            os.close(fd)
            return
        self._known[pid] = (fd, ended)
        if len(self._known) > KNOWN:
            self._forget(next(iter(self._known)))

    def _forget(self, pid: int) -> None:
        os.close(self._known.pop(pid)[0])
