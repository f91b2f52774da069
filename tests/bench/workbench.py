"""What benchmarks share: sizes, machines of their own to run jobs on, and watching a job's output as it comes."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from support.run import Lab, Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

JOBS = Path(__file__).parent / "jobs"
MEMORY_JOB = JOBS / "memory.py"
PATIENCE = 120.0
SETTLED_SECONDS = 1.0
MB = 1_000_000


class SkipError(Exception):
    """This benchmark cannot be made here; the message says why."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured.

    Args:
        memory: bytes of the large job.
        idle_seconds: of the window in which the supervisor is watched.
        pairs: of runs that are compared.
        job_seconds: how long a job of such a pair takes, about.
        checkpoints: how often a freeze is measured.
        restores: how often a restore is.
    """

    memory: int = 1000 * MB
    idle_seconds: float = 31.0
    pairs: int = 20
    job_seconds: float = 3.0
    checkpoints: int = 9
    restores: int = 5


FULL = Sizes()
QUICK = Sizes(100 * MB, 6.0, 5, 0.5, 3, 2)
"""To see that everything works; the figures mean little."""


class Bench:
    """What a benchmark is given.

    Args:
        folder: for everything it writes; on a disk, as a store's would be.
        sizes: how much to measure.
        say: takes a line about what is going on.
    """

    def __init__(self, folder: Path, sizes: Sizes, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.sizes = sizes
        self.say = say

    @contextlib.contextmanager
    def lab(self, name: str, *, store: str = "", env: Mapping[str, str] | None = None) -> Iterator[Lab]:
        """Make a machine of one's own, and clear it away afterwards."""
        place = self.folder / name
        with Lab(place, store=store, options=("--interval", "off"), environment=env or {}) as lab:
            try:
                yield lab
            finally:
                lab.close()
                shutil.rmtree(place, ignore_errors=True)

    def need_memory(self, times: float) -> None:
        """Skip unless so many times the large job's memory is free."""
        free = psutil.virtual_memory().available
        if free < times * self.sizes.memory:
            raise SkipError(
                f"{times * self.sizes.memory / 1e9:.1f} GB of memory are needed, {free / 1e9:.1f} GB are free"
            )

    def memory_command(self) -> tuple[object, ...]:
        """Return the command of the large job: 1% of its memory changes."""
        return sys.executable, MEMORY_JOB, self.sizes.memory, 0.01

    def memory_job(self, lab: Lab) -> Ticking:
        """Start the large job under ckptrun and wait until it ticks and staging is ready."""
        job = Ticking(lab, self.memory_command())
        job.wait_for_tick()
        staging_ready(job.run)
        return job


def staging_ready(run: Run) -> dict[str, Any]:
    """Wait until the job runs and staging has stopped growing; return the run's status."""
    run.job_pid()
    held, since = -1, time.monotonic()
    deadline = since + PATIENCE
    while time.monotonic() < deadline:
        status = run.status()
        if status["staging_bytes"] != held:
            held, since = status["staging_bytes"], time.monotonic()
        if held > 0 and status["current"] == "running" and time.monotonic() - since >= SETTLED_SECONDS:
            return status
        time.sleep(0.1)
    raise TimeoutError(f"staging is not ready: {run.story()}")


@dataclass(frozen=True, slots=True)
class Tick:
    """One line of the large job.

    Args:
        at: when it was read here, monotonic.
        number: which step of the job.
        gap: seconds since its step before, by the job's own clock.
    """

    at: float
    number: int
    gap: float


class Ticking:
    """The large job under ckptrun: ``jobs/memory.py``, its lines read as they come."""

    def __init__(self, lab: Lab, command: Iterable[object], options: Iterable[str] = ()) -> None:
        reader, writer = os.pipe()
        self.run = lab.start(*command, options=options, stdout=writer)
        os.close(writer)
        self.ticks: list[Tick] = []
        self._thread = threading.Thread(target=self._read, args=(reader,), daemon=True)
        self._thread.start()

    def _read(self, fd: int) -> None:
        with os.fdopen(fd, encoding="ascii") as lines:
            for line in lines:
                words = line.split()
                if not line.endswith("\n") or len(words) != 2:
                    continue  # cut off by a kill
                self.ticks.append(Tick(time.monotonic(), int(words[0]), float(words[1])))

    def wait_for_tick(self) -> None:
        """Wait for its next line."""
        seen = len(self.ticks)
        self.run.until("line of the job", lambda: len(self.ticks) > seen, PATIENCE)

    def wait_for_return(self, seen: int) -> Tick:
        """Return the first line a restored job wrote, among those after the first `seen`: its number is lower."""

        def back() -> Tick | None:
            ticks = self.ticks
            pairs = zip(ticks[max(seen - 1, 0) :], ticks[max(seen, 1) :], strict=False)
            return next((new for old, new in pairs if new.number <= old.number), None)

        found: Tick = self.run.until("line of the restored job", back, PATIENCE)
        return found

    def longest_gap(self, seen: int) -> float:
        """Return the longest the job stood still, by its own clock, after the first `seen` lines."""
        return max(tick.gap for tick in self.ticks[seen:])


def own_processes(run: Run) -> list[psutil.Process]:
    """Return ckptrun's own processes: the supervisor, and what it started that is not the job's."""
    supervisor = psutil.Process(run.process.pid)
    first = psutil.Process(run.job_pid())
    job = {first.pid, *(child.pid for child in first.children(recursive=True))}
    return [supervisor, *(child for child in supervisor.children(recursive=True) if child.pid not in job)]


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """Return utime + stime of processes so far, to the nanosecond where the kernel tells it."""
    return sum(_cpu_seconds(process) for process in processes)


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        return time.clock_gettime(
            (~process.pid << 3) | 2
        )  # the process's CPU clock, as clock_getcpuclockid makes it
    except OSError:
        times = process.cpu_times()
        return times.user + times.system


def pss_bytes(processes: Iterable[psutil.Process]) -> int:
    """Return the proportional set size: pages shared with others count by their share."""
    return sum(_pss_bytes(process.pid) for process in processes)


def _pss_bytes(pid: int) -> int:
    with Path(f"/proc/{pid}/smaps_rollup").open(encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
