"""Drive one program: alone for its digest, then under ckptrun with kills."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import fnmatch
import hashlib
import os
import pty
import re
import shutil
import statistics
import struct
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING, Any

from catalogue import Place
from support.processes import Collector, die_with_parent
from support.run import COMMITTED, RESTORED, STAGED, STARTED, Lab

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator
    from pathlib import Path

    from catalogue import Program
    from support.run import Event, Run

INTERVAL_SECONDS = 1.0
PAUSE_SECONDS = 0.12
"""Of a step under ckptrun: some 100 steps leave room for three kills."""
END_SECONDS = 240.0
"""Until a program must have ended, on a loaded machine too."""
ENVIRONMENT = {
    "OMP_NUM_THREADS": "2",
    "OMP_WAIT_POLICY": "PASSIVE",
    "OPENBLAS_NUM_THREADS": "2",
    "POLARS_MAX_THREADS": "2",
    "PYTHONHASHSEED": "0",
    "PYTHONPATH": "",
    "TERM": "xterm",
}
ON_TERMINAL = (
    sys.executable,
    "-c",
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])",
)
"""Starts a program with its standard input as the terminal of its session."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What is compared: the digest that a program printed last, and its side files by name."""

    digest: str
    files: dict[str, str]


class Terminal:
    """A terminal of 24 lines of 80, and what was written to it."""

    def __init__(self) -> None:
        self._master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.screen = Collector(self._master)

    def end(self) -> bytes:
        """Return all that was written, once nobody else has the terminal open."""
        self._close_slave()
        return self.screen.end()

    def close(self) -> None:
        """Close both ends, once."""
        self._close_slave()
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    def _close_slave(self) -> None:
        if self.slave >= 0:
            os.close(self.slave)
            self.slave = -1


def alone(program: Program, folder: Path, environment: dict[str, str]) -> Outcome:
    """Run a program without ckptrun and return its outcome."""
    folder.mkdir()
    environment = {**environment, "ZOO_PAUSE": "0.01"}
    terminal = Terminal() if program.terminal else None
    stream = terminal.slave if terminal else subprocess.PIPE
    process = subprocess.Popen(
        [*ON_TERMINAL, *program.argv] if terminal else program.argv,
        cwd=folder,
        env=environment,
        stdin=terminal.slave if terminal else subprocess.DEVNULL,
        stdout=stream,
        stderr=stream,
        start_new_session=True,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call
    )
    try:
        said, errors = process.communicate(timeout=END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"{program.name} does not end by itself") from None
    if terminal:
        said, errors = terminal.end(), b""
        terminal.close()
    assert process.returncode == 0, (
        f"{program.name} fails when it runs alone: {(said + errors)[-3000:].decode()}"
    )
    return Outcome(digest(said), side_files(folder, program))


def digest(output: bytes) -> str:
    """Return what a program reported at its end."""
    found = re.findall(rb"digest ([0-9a-f]{64})", output)
    assert found, f"no digest in {output[-2000:]!r}"
    return found[-1].decode()


def side_files(folder: Path, program: Program) -> dict[str, str]:
    """Return every file of the working directory with the hash of its content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not any(fnmatch.fnmatch(name, pattern) for pattern in program.volatile):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


class Performance:
    """A program under ckptrun."""

    def __init__(self, folder: Path, program: Program) -> None:
        self.program = program
        self.past: list[Event] = []
        self.kills = 0
        prefix = ON_TERMINAL if program.terminal else ()
        self.hurry, self.hold = folder / "hurry", folder / "hold"
        environment = {
            **ENVIRONMENT,
            "ZOO_PAUSE": str(PAUSE_SECONDS),
            "ZOO_HURRY": str(self.hurry),
            "ZOO_HOLD": str(self.hold),
        }
        options = ("--interval", f"{INTERVAL_SECONDS}s", "--max-restarts", "20")
        self.lab = Lab(folder, name=program.name, environment=environment, options=options, prefix=prefix)
        self.terminal: Terminal | None = None
        self.run: Run | None = None

    def start(self) -> Run:
        """Start the program, or go on with it: the command is the same."""
        if self.program.terminal:
            self.close_terminal()
            self.terminal = Terminal()
            slave = self.terminal.slave
            self.run = self.lab.start(*self.program.argv, stdin=slave, stdout=slave, stderr=slave)
        else:
            self.run = self.lab.start(*self.program.argv)
        return self.run

    @property
    def output(self) -> bytearray:
        """What the program has written since the last start."""
        if self.terminal:
            return self.terminal.screen.data
        assert self.run is not None
        assert self.run.stdout is not None
        return self.run.stdout.data

    def kill(self, place: Place, choices: random.Random) -> None:
        """Kill the program in its midst, a random moment after a commit, and see that it is restored."""
        run = self.run
        assert run is not None
        run.until("first step", lambda: b"step" in self.output)
        run.commit()
        time.sleep(choices.uniform(0, INTERVAL_SECONDS))
        assert run.alive(), f"the program ended before kill {self.kills + 1}"
        if place is Place.HERE:
            run.restored(run.kill_job)
        else:
            run.kill_supervisor()
            self.past += self.lab.events()
            self.lab.lose_machine()
            shutil.rmtree(self.lab.work)
            self.lab.work.mkdir()
            self.start().event(RESTORED)
        self.kills += 1

    def let_end(self) -> None:
        """Let the program come to its end: enough has happened to it."""
        self.hold.unlink(missing_ok=True)

    def hasten(self) -> None:
        """Have the program rest no more once another checkpoint is committed, or it has ended."""
        run = self.run
        assert run is not None
        known = {event["id"] for event in self.lab.events(STAGED)}
        run.until(
            "commit or end",
            lambda: not run.alive() or {event["id"] for event in self.lab.events(COMMITTED)} - known,
        )
        self.hurry.touch()

    def end(self) -> Outcome:
        """Wait for the end and return the outcome; every start but the first must have been a restore."""
        assert self.run is not None
        result = self.run.wait(END_SECONDS)
        if self.terminal:
            self.terminal.end()
        assert result.code == 0, f"exit code {result.code}\n{self.story()}"
        starts = [event["event"] for event in self.events() if event["event"] in {STARTED, RESTORED}]
        assert starts == [STARTED, *[RESTORED] * self.kills], f"{starts}\n{self.story()}"
        return Outcome(digest(bytes(self.output)), side_files(self.lab.work, self.program))

    def events(self) -> list[Event]:
        """Return the diaries of all machines, oldest first."""
        return [*self.past, *self.lab.events()]

    def story(self) -> str:
        """Return what is known, for failures."""
        assert self.run is not None
        screen = bytes(self.terminal.screen.data[-3000:]).decode("utf-8", "replace") if self.terminal else ""
        return self.run.story() + screen

    def figures(self) -> dict[str, Any]:
        """Return what docs/compatibility.md tells besides the outcome."""
        events = self.events()
        frozen = [event["frozen_seconds"] for event in events if event["event"] == "checkpoint-staged"]
        return {
            "kills": self.kills,
            "checkpoints": sum(event["event"] == COMMITTED for event in events),
            "frozen_median": statistics.median(frozen) if frozen else None,
            "failed_checkpoints": [e["reason"] for e in events if e["event"] == "checkpoint-failed"],
            "failed_restores": [e["reason"] for e in events if e["event"] == "restore-failed"],
        }

    def close_terminal(self) -> None:
        """Hang up."""
        if self.terminal:
            self.terminal.close()

    def close(self) -> None:
        """End whatever is left."""
        self.lab.close()
        self.close_terminal()


@contextlib.contextmanager
def performance(folder: Path, program: Program) -> Iterator[Performance]:
    """A program that can be started under ckptrun; nothing of it is left afterwards."""
    shown = Performance(folder, program)
    try:
        yield shown
    finally:
        shown.close()
    shown.lab.expect_nothing_left()
