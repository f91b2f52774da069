"""Hooks whose process stays from the phase that begins something to the one that closes it (``stays`` of hook.json).

What a hook holds over a freeze, somebody waits for: a GPU, a database's writers. A process that stays lets go of it
at once, where a new one would first have to start, to import and to connect. It reads a context a line and answers with
a result a line; at the end of its input it ends. One that is gone by then is no loss: the closing phase is
run by a process of its own, as that of any other hook.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ckptrun.hooking import runner
from ckptrun.hooking.pipes import KILL_SECONDS, STDOUT_BYTES, Piped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptrun.hooking.runner import Call, Ended


class Staying:
    """The processes of one bracket's hooks that stay. One thread: they die with the one that started them.

    Args:
        launcher: see `runner.run`.
    """

    def __init__(self, launcher: Sequence[str]) -> None:
        self._launcher = launcher
        self._processes: dict[str, Piped] = {}

    def begin(self, hook: str, call: Call) -> Ended:
        """Start a hook's process and have it do the opening phase; if it runs already, that once more."""
        began = time.monotonic()
        if not self._there(hook):
            try:
                process = Piped([*self._launcher, *call.argv], call.cwd, call.environment)
            except (OSError, ValueError) as error:
                return runner.not_started(call, error)
            self._processes[hook] = process
        return self._ask(hook, call, began)

    def close(self, hook: str, call: Call) -> Ended:
        """Have the process that has stayed do the closing phase; another, if there is none any more."""
        if self._there(hook):
            ended = self._ask(hook, call, time.monotonic())
            if hook in self._processes or ended.timed_out or ended.stdout:
                return ended
        return runner.run(self._launcher, call)

    def end(self) -> None:
        """End all that have stayed: there is nothing more to read."""
        for process in self._processes.values():
            process.give(b"", last=True)
        for process in self._processes.values():
            with process:
                if process.serve(time.monotonic() + KILL_SECONDS) or process.end():
                    process.code()
        self._processes = {}

    def _there(self, hook: str) -> bool:
        """Whether a hook's process still runs."""
        process = self._processes.get(hook)
        if process is not None and process.has_ended():
            del self._processes[hook]
            with process:
                process.code()
            return False
        return process is not None

    def _ask(self, hook: str, call: Call, began: float) -> Ended:
        """Give a process a context, and return its answer, or how it has ended without one; it is gone then."""
        process = self._processes[hook]
        process.read_leftovers()
        process.stdout.clear()
        process.stderr.clear()
        process.give(call.stdin + b"\n", last=False)

        def answered() -> bool:
            return b"\n" in process.stdout or len(process.stdout) > STDOUT_BYTES

        in_time = process.serve(began + call.timeout, answered) or answered()
        line, newline, _ = bytes(process.stdout).partition(b"\n")
        if newline:
            return runner.Ended(0, line, process.said(), time.monotonic() - began)
        del self._processes[hook]
        with process:
            return runner.finished(process, began, timed_out=not in_time)
