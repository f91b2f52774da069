"""Signals sent to ckptrun, turned into calls: a thread waits for them, handlers only enqueue.

Signals are blocked in every thread, so nothing is ever interrupted by one. The kernel says who sent each: a terminal's
Ctrl-C (sent by the kernel) goes to the job, ``kill -INT`` (sent by a process) asks ckptrun to stop.
"""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

HANDLED = frozenset(
    {
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGHUP,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGTSTP,
        signal.SIGCONT,
        signal.SIGWINCH,
    }
)


def block() -> None:
    """Block them in this thread and every one started after; call it first of all, in the main thread.

    SIGHUP that is ignored (nohup) stays ignored.
    """
    ignored = {sig for sig in HANDLED if signal.getsignal(sig) is signal.SIG_IGN}
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED - ignored)


class Watch:
    """A thread that waits for signals until it is told to end.

    Args:
        handle: gets a signal's number and whether a terminal sent it, and must only enqueue.
    """

    def __init__(self, handle: Callable[[int, bool], None]) -> None:
        self._handle = handle
        self._ending = False
        self._thread = threading.Thread(target=self._work, name="signals", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """End it; every signal was handled then, or stays pending for whoever waits next, also after an exec."""
        self._ending = True
        assert self._thread.ident is not None
        signal.pthread_kill(self._thread.ident, _WAKES)  # this thread's own come before the process's
        self._thread.join()

    def _work(self) -> None:
        while True:
            info = signal.sigwaitinfo(HANDLED)
            if self._ending and info.si_signo == _WAKES:
                return
            self._handle(info.si_signo, info.si_code > 0)


def watch(handle: Callable[[int, bool], None]) -> None:
    """Start a `Watch` that never ends."""
    Watch(handle)


_WAKES = signal.SIGWINCH
"""Of no consequence where it is lost."""
