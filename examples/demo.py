"""What ``make demo`` shows: a training that is killed twice, loses its machine once, and is exact all the same.

    .venv/bin/python examples/demo.py [--seed N] [--steps N]

`train_digits.py` runs undisturbed first, then under ckptrun, disturbed; at the end both are compared. Exits
with 0 only if they are equal. Everything lies in a temporary folder that is removed at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import psutil
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

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
        self.steps = steps
        self.environment = {**os.environ, "XDG_STATE_HOME": str(self.machine / "state")}
        for place in (self.work, self.reference):
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
        return self.ckptrun(*options, "--", *self.training(STEP_SECONDS))

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
        while self.process.poll() is None and not self.events:  # it has to begin first
            feed = self._start(words, subprocess.DEVNULL)
            self.events.extend(json.loads(line) for line in feed.stdout or ())
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
        found = (event for event in list(self.events) if event["event"] == name)
        return next((event for event in found if when(event) > after), None)

    def wait(self) -> int:
        """Wait for the end and return the exit code."""
        code = self.process.wait(PATIENCE_SECONDS)
        for reader in self._readers:
            reader.join(PATIENCE_SECONDS)
        return code


@dataclass(frozen=True)
class Loss:
    """What one disturbance cost: work done again, and the time until the job ran again; in seconds."""

    what: str
    steps: int
    seconds: float
    restart: float


class Story:
    """What happens, in order."""

    def __init__(self, workshop: Workshop, seed: int) -> None:
        self._workshop = workshop
        self._seed = seed
        self._random = random.Random(seed)  # noqa: S311 -- moments of misfortune, not secrets
        self._losses: list[Loss] = []
        self._frozen: list[float] = []
        self._began = time.monotonic()

    def tell(self) -> int:
        """Tell it; return the exit code."""
        console.print(
            "\n[bold]ckptrun[/bold] saves a running program again and again, and brings it back when it dies.\n"
            "Here a neural network learns to read digits. Its process is killed twice, then its machine is lost,\n"
            f"at random moments (seed {self._seed}: repeat them with --seed {self._seed}). "
            "The script knows nothing of all this."
        )
        digest = self._reference()
        self._chapter("2. The same training under ckptrun, killed on the way")
        console.print(
            f"     [bold]$ ckptrun --name {NAME} --store file://… --interval {INTERVAL_SECONDS}s "
            "-- python train_digits.py …[/bold]"
        )
        run = Run(self._workshop)
        moment = self._kill_job(run, "first kill", 0.0)
        moment = self._kill_job(run, "second kill", moment)
        run = self._lose_machine(run, moment)
        if (code := run.wait()) != 0:
            raise DemoError(f"ckptrun ended with exit code {code}")
        return self._compare(digest, run.output)

    def _reference(self) -> str:
        self._chapter("1. The reference: the training, left alone")
        began = time.monotonic()
        words = self._workshop.training(pause=0)
        folder = self._workshop.reference
        answer = subprocess.run(words, cwd=folder, stdout=subprocess.PIPE, text=True, check=False)
        if answer.returncode != 0:
            raise DemoError(f"the training by itself ended with exit code {answer.returncode}")
        *_, last_step, digest = answer.stdout.splitlines()
        console.print(f"     [dim]job │ {escape(last_step)}\n     job │ {escape(digest)}[/dim]")
        self._say(f"done in {time.monotonic() - began:.1f} s. These weights are what must come out again.")
        return digest

    def _kill_job(self, run: Run, name: str, after: float) -> float:
        self._wait_for_commit(run, after)
        first = psutil.Process(self._workshop.ask("status")["job_pid"])
        job = [first, *first.children(recursive=True)]
        moment = time.time()
        for process in job:
            process.kill()
        psutil.wait_procs(job, timeout=10)
        rows = self._workshop.rows() or 0
        self._say(f"[bold red]SIGKILL[/bold red] to the job (PID {first.pid}) at step {rows}.")
        return self._watch_return(run, name, rows, moment)

    def _lose_machine(self, run: Run, after: float) -> Run:
        self._wait_for_commit(run, after)
        everything = psutil.Process(run.process.pid).children(recursive=True)
        moment = time.time()
        run.process.kill()
        run.wait()
        rows = self._workshop.rows() or 0
        _, alive = psutil.wait_procs(everything, timeout=10)
        if alive:
            raise DemoError(f"processes outlived ckptrun: {[process.pid for process in alive]}")
        shutil.rmtree(self._workshop.machine)
        self._chapter("3. The machine is lost")
        self._say(
            f"[bold red]SIGKILL[/bold red] to ckptrun itself at step {rows}; no process of the job is left.\n"
            "     Deleted: ckptrun's local state, the training's log, everything. "
            "[bold]Only the store is left.[/bold]"
        )
        self._say("On another machine, the same command again:")
        self._workshop.work.mkdir(parents=True)
        run = Run(self._workshop)
        self._watch_return(run, "lost machine", rows, moment)
        return run

    def _wait_for_commit(self, run: Run, after: float) -> None:
        """Wait for a new checkpoint, and then a random time more, so that the blow can fall anywhere."""
        committed = run.event("checkpoint-committed", after)
        shown = {found["id"]: found for found in self._workshop.ask("show")["checkpoints"]}
        if checkpoint := shown.get(committed["id"]):
            self._frozen.append(checkpoint["frozen_seconds"])
            self._say(
                f"checkpoint [green]{checkpoint['id']}[/green] is in the store: "
                f"{checkpoint['memory_bytes'] / 1e6:.0f} MB of memory, {checkpoint['new_bytes'] / 1e6:.1f} MB "
                f"of it new; the job stood still for {checkpoint['frozen_seconds'] * 1000:.0f} ms."
            )
        until = time.monotonic() + self._random.uniform(0, INTERVAL_SECONDS)
        run.until("random moment", lambda: time.monotonic() >= until)

    def _watch_return(self, run: Run, name: str, rows: int, moment: float) -> float:
        """Wait until the job runs again; say what was lost. Returns when that was."""
        least = rows

        def restored() -> dict[str, Any] | None:
            nonlocal least
            least = min(least, now if (now := self._workshop.rows()) is not None else least)
            return run.find("job-restored", moment)

        event = run.until("restored job", restored)
        lost = self._losses
        lost.append(Loss(name, rows - least, (rows - least) * STEP_SECONDS, when(event) - moment))
        self._say(
            f"[green]running again[/green] {lost[-1].restart:.1f} s later, at step {least}: "
            f"{lost[-1].steps} steps are done again."
        )
        return when(event)

    def _compare(self, digest: str, output: list[str]) -> int:
        self._chapter("4. Was it worth it?")
        table = Table("what happened", "steps done again", "running again after", box=None, pad_edge=False)
        for loss in self._losses:
            table.add_row(loss.what, str(loss.steps), f"{loss.restart:.2f} s")
        console.print(table)
        log = self._workshop.log.read_bytes()
        steps = [line.split(b",")[0] for line in log.splitlines()[1:]]
        every = steps == [str(step).encode() for step in range(1, self._workshop.steps + 1)]
        same = {
            "the weights, bit for bit": bool(output) and output[-1] == digest,
            "the log, byte for byte": log == (self._workshop.reference / "train.csv").read_bytes(),
            "every step once in the log": every,
        }
        console.print(
            f"\nthe job stood still for a checkpoint: {median(self._frozen) * 1000:.0f} ms (median)"
        )
        console.print("compared with the undisturbed run:")
        for what, equal in same.items():
            console.print(f"  {'[green]equal[/green]    ' if equal else '[red]DIFFERENT[/red]'}  {what}")
        console.print(f"\n{time.monotonic() - self._began:.0f} s in all, seed {self._seed}.")
        return 0 if all(same.values()) else 1

    def _chapter(self, title: str) -> None:
        console.print(f"\n[bold]{title}[/bold]")

    def _say(self, text: str) -> None:
        console.print(f"[dim]{time.monotonic() - self._began:4.0f}[/dim] {text}")


def when(event: dict[str, Any]) -> float:
    """Return the time of an event, seconds since the epoch."""
    return dt.datetime.fromisoformat(event["time"]).timestamp()


def interrupted(_signum: int, _frame: FrameType | None) -> None:
    """Turn a signal into an exception, so that everything is cleaned up."""
    raise KeyboardInterrupt


def end_children() -> None:
    """Kill what this process has started; a job dies with its ckptrun."""
    children = psutil.Process().children(recursive=True)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(children, timeout=10)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10_000), help="of the random moments")
    parser.add_argument("--steps", type=int, default=900, help="of the training (900)")
    return parser.parse_args()


def main() -> int:
    """Run the demo in a folder that is gone afterwards, whatever happens."""
    options = parse_options()
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, interrupted)
    folder = Path(tempfile.mkdtemp(prefix="ckptrun-demo-"))
    try:
        return Story(Workshop(folder, options.steps), options.seed).tell()
    except DemoError as error:
        console.print(f"[bold red]the demo failed:[/bold red] {escape(str(error))}")
        return 1
    except KeyboardInterrupt:
        console.print("interrupted")
        return 130
    finally:
        end_children()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
