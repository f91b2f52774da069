"""What ``make demo`` shows: a training killed twice, its machine lost once, and the result exact all the same.

    .venv/bin/python examples/demo.py [--seed N] [--steps N]

`train_digits.py` runs undisturbed first, then under ckptrun, disturbed; at the end both are compared. Exits
with 0 only if they are equal. Everything lies in a temporary folder that is removed at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import psutil
from demo_stage import INTERVAL_SECONDS, NAME, DemoError, Run, Workshop, console, when
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from types import FrameType


@dataclass(frozen=True)
class Loss:
    """What one disturbance cost: steps done again, and seconds until the job ran again."""

    what: str
    steps: int
    seconds: float


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
            "Here a neural network learns to read digits. Its process is killed twice, then its machine\n"
            f"is lost, at random moments (seed {self._seed}: repeat them with --seed {self._seed}). "
            "The script knows\nnothing of all this."
        )
        digest = self._reference()
        self._chapter("2. The same training under ckptrun, killed on the way")
        console.print(
            f"     [bold]$ ckptrun --name {NAME} --store file://… --interval {INTERVAL_SECONDS}s "
            "-- python train_digits.py …[/bold]"
        )
        shares = self._hold()
        run = Run(self._workshop)
        moment = self._kill_job(run, "first kill", 0.0, shares[0])
        moment = self._kill_job(run, "second kill", moment, shares[1])
        run = self._lose_machine(run, moment, shares[2])
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

    def _hold(self) -> list[range]:
        """Return the steps among which each disturbance falls; the training waits for it at their end.

        So there is something left to disturb however long checkpoints and restores take.
        """
        quarter = self._workshop.steps / 4
        shares = [range(int(quarter * number), int(quarter * (number + 1))) for number in range(3)]
        for share in shares:
            self._held_at(share).touch()
        return shares

    def _held_at(self, share: range) -> Path:
        return self._workshop.hold / str(max(share.stop, 1))

    def _kill_job(self, run: Run, name: str, after: float, share: range) -> float:
        self._wait_for_commit(run, after)
        first = psutil.Process(self._workshop.ask("status")["job_pid"])
        self._wait_for_step(run, share)
        job = [first, *first.children(recursive=True)]
        moment = time.time()
        for process in job:
            process.kill()
        psutil.wait_procs(job, timeout=10)
        rows = self._workshop.rows() or 0
        self._say(f"[bold red]SIGKILL[/bold red] to the job (PID {first.pid}) at step {rows}.")
        self._held_at(share).unlink()
        return self._watch_return(run, name, rows, moment)

    def _lose_machine(self, run: Run, after: float, share: range) -> Run:
        self._wait_for_commit(run, after)
        self._wait_for_step(run, share)
        everything = psutil.Process(run.process.pid).children(recursive=True)
        moment = time.time()
        run.process.kill()
        run.wait()
        rows = self._workshop.rows() or 0
        _, alive = psutil.wait_procs(everything, timeout=10)
        if alive:
            raise DemoError(f"processes outlived ckptrun: {[process.pid for process in alive]}")
        shutil.rmtree(self._workshop.machine)
        self._held_at(share).unlink()
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
        """Wait for a new checkpoint."""
        committed = run.event("checkpoint-committed", after)
        shown = {found["id"]: found for found in self._workshop.ask("show")["checkpoints"]}
        if checkpoint := shown.get(committed["id"]):
            self._frozen.append(checkpoint["frozen_seconds"])
            self._say(
                f"checkpoint [green]{checkpoint['id']}[/green] is in the store: "
                f"{checkpoint['memory_bytes'] / 1e6:.0f} MB of memory, "
                f"{checkpoint['new_bytes'] / 1e6:.1f} MB of it new; "
                f"the job stood still for {checkpoint['frozen_seconds'] * 1000:.0f} ms."
            )

    def _wait_for_step(self, run: Run, share: range) -> None:
        """Wait until the training has come to a random step, so that the blow can fall anywhere."""
        step = self._random.choice(share or [0])
        run.until(f"step {step}", lambda: (self._workshop.rows() or 0) >= step)

    def _watch_return(self, run: Run, name: str, rows: int, moment: float) -> float:
        """Wait until the job runs again; say what was lost. Returns when that was."""
        least = rows

        def restored() -> dict[str, Any] | None:
            nonlocal least
            least = min(least, now if (now := self._workshop.rows()) is not None else least)
            return run.find("job-restored", moment)

        event = run.until("restored job", restored)
        loss = Loss(name, rows - least, when(event) - moment)
        self._losses.append(loss)
        self._say(
            f"[green]running again[/green] {loss.seconds:.1f} s later, at step {least}: "
            f"{loss.steps} steps are done again."
        )
        return when(event)

    def _compare(self, digest: str, output: list[str]) -> int:
        self._chapter("4. The result")
        table = Table("what happened", "steps done again", "running again after", box=None, pad_edge=False)
        for loss in self._losses:
            table.add_row(loss.what, str(loss.steps), f"{loss.seconds:.2f} s")
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
