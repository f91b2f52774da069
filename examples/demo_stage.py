"""What the demo plays with: a folder that stands for a machine and a store, and a run of ckptrun in it."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "demo"
INTERVAL_SECONDS = 2
STEP_SECONDS = 0.02
PATIENCE_SECONDS = 120.0
"""A demo that waits longer for one thing has failed."""
POLL_SECONDS = 0.005

console = Console(highlight=False, soft_wrap=True)


class DemoError(Exception):
    """Something that should have happened did not."""


class Workshop:
    """The demo's temporary folder: a machine to be lost, and a store that is not."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.machine = folder / "machine"
        self.work = self.machine / "work"
        self.log = self.work / "train.csv"
        self.store = f"file://{folder}/store"
        self.reference = folder / "reference"
        self.hold = folder / "hold"
        self.steps = steps
        self.environment = {**os.environ, "XDG_STATE_HOME": str(self.machine / "state")}
        for place in (self.work, self.reference, self.hold):
            place.mkdir(parents=True)

    def training(self, pause: float) -> list[str]:
        """Return the job's command."""
        script = Path(__file__).with_name("train_digits.py")
        return [sys.executable, str(script), "--steps", str(self.steps), "--step-seconds", str(pause)]

    def ckptrun(self, *words: str) -> list[str]:
        """Return a command line of ckptrun's."""
        program = Path(sys.executable).with_name("ckptrun")
        return [*([str(program)] if program.exists() else [sys.executable, "-m", "ckptrun"]), *words]

    def protected(self) -> list[str]:
        """Return the one command of this demo: the training, under ckptrun."""
        options = ["--name", NAME, "--store", self.store, "--interval", f"{INTERVAL_SECONDS}s"]
        return self.ckptrun(*options, "--", *self.training(STEP_SECONDS), "--hold", str(self.hold))

    def ask(self, command: str) -> dict[str, Any]:
        """Return what ``ckptrun COMMAND demo --json`` says."""
        words = self.ckptrun(command, NAME, "--store", self.store, "--json")
        answer = subprocess.run(words, env=self.environment, capture_output=True, text=True, check=False)
        if answer.returncode != 0:
            raise DemoError(f"ckptrun {command}: {answer.stderr.strip()}")
        return dict(json.loads(answer.stdout))

    def rows(self) -> int | None:
        """Return how many steps the job's log has; None while there is no log."""
        with contextlib.suppress(FileNotFoundError):
            return self.log.read_bytes().count(b"\n") - 1
        return None


class Run:
    """The command running: its output shown as it comes, its events collected."""

    def __init__(self, workshop: Workshop) -> None:
        self.output: list[str] = []
        self.events: list[dict[str, Any]] = []
        self._workshop = workshop
        self.process = self._start(workshop.protected(), subprocess.PIPE)
        self._readers = [
            self._thread(self._show_job),
            self._thread(self._show_ckptrun),
            self._thread(self._follow),
        ]

    def _start(self, words: list[str], errors: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            words,
            env=self._workshop.environment,
            cwd=self._workshop.work,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )

    def _thread(self, work: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread

    def _show_job(self) -> None:
        for line in self.process.stdout or ():
            self.output.append(line.rstrip("\n"))
            console.print(f"     [dim]job │ {escape(self.output[-1])}[/dim]")

    def _show_ckptrun(self) -> None:
        for line in self.process.stderr or ():
            console.print(f"     [cyan]{escape(line.rstrip())}[/cyan]")

    def _follow(self) -> None:
        words = self._workshop.ckptrun("events", NAME, "--store", self._workshop.store, "--follow")
        while self.process.poll() is None:  # until it has begun, those of a run before are all there is
            feed = self._start(words, subprocess.DEVNULL)
            for line in feed.stdout or ():
                self.events.append(json.loads(line))
            feed.wait()

    def until(self, what: str, condition: Callable[[], Any]) -> Any:
        """Wait for a condition and return it."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (found := condition()):
            if self.process.poll() is not None:
                raise DemoError(f"ckptrun ended with exit code {self.process.returncode} before a {what}")
            if time.monotonic() > deadline:
                raise DemoError(f"no {what} within {PATIENCE_SECONDS:g} s")
            time.sleep(POLL_SECONDS)
        return found

    def event(self, name: str, after: float) -> dict[str, Any]:
        """Wait for an event that is later than `after`, seconds since the epoch."""
        return dict(self.until(f"{name} event", lambda: self.find(name, after)))

    def find(self, name: str, after: float) -> dict[str, Any] | None:
        """Return the first event of this name later than `after`, if it has come."""
        found = (event for event in list(self.events) if event["event"] == name)
        return next((event for event in found if when(event) > after), None)

    def wait(self) -> int:
        """Wait for the end and return the exit code."""
        code = self.process.wait(PATIENCE_SECONDS)
        for reader in self._readers:
            reader.join(PATIENCE_SECONDS)
        return code


def when(event: dict[str, Any]) -> float:
    """Return the time of an event, seconds since the epoch."""
    return dt.datetime.fromisoformat(event["time"]).timestamp()
