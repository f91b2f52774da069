"""What the user does to a run from outside: signals, Ctrl-C, Ctrl-Z, a terminal that changes its size.

Called by the loop, whose main thread does all of it; other threads only enqueue.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptrun.capsule.streams import Streams
    from ckptrun.supervisor.shell import Shell
    from ckptrun.telemetry.speak import Speaker

SAME_STOP_SECONDS = 1.0
"""The same request within this time is one: tools signal a process, and then its group."""
SUSPEND_RETRY_SECONDS = 0.05


class Console:
    """The user's hands on one run."""

    def __init__(
        self,
        shell: Shell,
        streams: Streams,
        speaker: Speaker,
        watch: Callable[[Callable[[int, bool], None]], None],
        *,
        forward_usr1: bool,
    ) -> None:
        self._shell = shell
        self._streams = streams
        self._speaker = speaker
        self._watch = watch
        self._forward_usr1 = forward_usr1
        self._stop_asked = float("-inf")
        self._stop_asker = ""

    def open(self) -> None:
        """Take signals, and the terminal if there is one."""
        self._watch(self._signalled)
        self._streams.interrupted = self._interrupted
        self._streams.returned = lambda: self._shell.enqueue(self._take_terminal)
        self._streams.terminal.enter()
        self._speaker.raw = self._streams.terminal.raw

    def close(self) -> None:
        """Give the terminal back."""
        self._streams.terminal.leave()
        self._speaker.raw = False

    def job_stopped(self) -> None:
        """The job was suspended at its terminal: suspend ckptrun too, as a shell expects. Any thread."""
        self._shell.enqueue(self._suspend)

    def from_container(self, signum: int) -> None:
        """Take a signal that the job's container was sent, in the loop's thread."""
        if signum in {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}:
            self._stop(signum, "container")
        else:
            self._signal(signum, from_terminal=False)

    def _signalled(self, signum: int, from_terminal: bool) -> None:
        """Turn a signal into work for the loop; called in the signals' thread."""
        self._shell.enqueue(lambda: self._signal(signum, from_terminal))

    def _signal(self, signum: int, from_terminal: bool) -> None:
        match signum:
            case signal.SIGWINCH:
                self._streams.resize()
            case signal.SIGUSR1 if not self._forward_usr1:
                self._shell.checkpoint()
            case signal.SIGCONT:
                self._take_terminal()
                self._pass_on(signum)
            case signal.SIGINT | signal.SIGQUIT | signal.SIGTSTP if from_terminal:
                if signum != signal.SIGTSTP:
                    self._interrupted()
                self._pass_on(signum)
            case signal.SIGTERM | signal.SIGINT | signal.SIGHUP:
                self._stop(signum)
            case _:
                self._pass_on(signum)

    def _stop(self, signum: int, asker: str = "own") -> None:
        """Stop; a pod's end signals all its containers, some of them later: that is no second request."""
        now = time.monotonic()
        if now - self._stop_asked >= SAME_STOP_SECONDS and self._stop_asker in {"", asker}:
            self._stop_asked, self._stop_asker = now, asker
            self._shell.stop(signum)

    def _pass_on(self, signum: int) -> None:
        if self._shell.incarnation:
            self._shell.incarnation.signal(signum)

    def _interrupted(self) -> None:
        if self._shell.incarnation:
            self._shell.incarnation.interrupted = time.monotonic()

    def _suspend(self) -> None:
        """Stop, but not in the middle of a dump: the job would stay frozen."""
        if self._shell.state.dump is not None:
            self._shell.after(SUSPEND_RETRY_SECONDS, self._suspend)
            return
        self.close()
        os.kill(os.getpid(), signal.SIGSTOP)

    def _take_terminal(self) -> None:
        self._streams.terminal.enter()
        self._speaker.raw = self._streams.terminal.raw
        self._streams.resize()
