"""ckptrun with one fault in it: ``python injected.py FAULT WORD…`` is ``python -m ckptrun WORD…`` until FAULT strikes.

A fault is JSON, see `Fault`: a place in the program, by name, and what happens there. So the program that users run
knows nothing of tests, and a place that was renamed makes its test fail loudly instead of passing for nothing.
"""

from __future__ import annotations

import errno
import functools
import importlib
import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptrun.capsule.capsule import ROOT_PID
from ckptrun.capsule.processes import descendants, is_over, pid_inside

if TYPE_CHECKING:
    from collections.abc import Callable

KILL, KILL_JOB, RAISE, SLEEP, REFUSE, HOLD = "kill", "kill-job", "raise", "sleep", "refuse", "hold"


@dataclass(frozen=True)
class Fault:
    """What goes wrong where.

    Args:
        place: ``module:Class.function``.
        when: ``before`` or ``after`` that function's work.
        nth: in which call, of those that count; 0: in each.
        about: calls count whose arguments' text has this.
        commits: calls count once so many checkpoints are committed.
        act: ``kill`` is SIGKILL for ckptrun; ``kill-job`` for the job's first process, and returns when it is dead;
            ``raise`` is a MemoryError in its place; ``sleep`` only takes long; ``refuse`` is the kernel's answer
            where it lacks something; ``hold`` makes the file `gate` and goes on when it is gone.
        seconds: how long.
        gate: path of the file of ``hold``.
    """

    place: str
    when: str = "before"
    nth: int = 1
    about: str = ""
    commits: int = 1
    act: str = KILL
    seconds: float = 0.0
    gate: str = ""

    def __str__(self) -> str:
        about = f" of {self.about.strip('/')}" if self.about else ""
        nth = f", call {self.nth}" if self.nth > 1 else ""
        none = ", nothing committed" if not self.commits else ""
        return f"{self.when} {self.place.partition(':')[2]}{about}{nth}{none}"

    def program(self) -> tuple[str, ...]:
        """Return what starts ckptrun with this fault in it."""
        return (sys.executable, __file__, json.dumps(asdict(self)))


class Injection:
    """A fault, set up in this process."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.calls = 0
        self.commits = 0
        self.lock = threading.Lock()

    def set_up(self) -> None:
        self.wrap("ckptrun.store.writer:Writer.commit", self.counting)
        self.wrap(self.fault.place, self.faulty)

    def wrap(self, place: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        module, _, path = place.partition(":")
        owner: Any = importlib.import_module(module)
        *parents, name = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        setattr(owner, name, wrapper(getattr(owner, name)))

    def counting(self, commit: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(commit)
        def counted(*args: Any, **options: Any) -> Any:
            record = commit(*args, **options)
            self.commits += 1
            return record

        return counted

    def faulty(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*args: Any, **options: Any) -> Any:
            counts = self.counts(args, options)
            if counts and self.fault.when == "before":
                self.strike()
            result = function(*args, **options)
            if counts and self.fault.when == "after":
                self.strike()
            return result

        return wrapped

    def counts(self, args: tuple[Any, ...], options: dict[str, Any]) -> bool:
        if self.commits < self.fault.commits:
            return False
        if self.fault.about and self.fault.about not in f"{args} {options}":
            return False
        with self.lock:
            self.calls += 1
            return self.fault.nth in {0, self.calls}

    def strike(self) -> None:
        if self.fault.act == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault.act == KILL_JOB:
            kill_job()
            return
        if self.fault.act == SLEEP:
            time.sleep(self.fault.seconds)
            return
        if self.fault.act == REFUSE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        if self.fault.act == HOLD:
            gate = Path(self.fault.gate)
            gate.touch()
            while gate.exists():
                time.sleep(0.01)
            return
        raise MemoryError("injected by a test")


def kill_job() -> None:
    """Kill the job's first process and wait until it is a zombie, or gone."""
    for pid in descendants(os.getpid()):
        if pid_inside(pid) == ROOT_PID + 1:
            os.kill(pid, signal.SIGKILL)
            deadline = time.monotonic() + 30
            while not is_over(pid):
                assert time.monotonic() < deadline, "the job does not die"
                time.sleep(0.001)
            return
    raise AssertionError("there is no job to kill")


if __name__ == "__main__":
    fault, *words = sys.argv[1:]
    Injection(Fault(**json.loads(fault))).set_up()
    from ckptrun.cli.main import main

    sys.exit(main(words))
