"""What ckptrun takes while there is nothing to do: processor and memory, with no checkpoint due and staging ready."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from typing import TYPE_CHECKING

import psutil
import pytest
from figures import Figure, at_most
from support.s3 import S3Server, weed
from workbench import MB, cpu_seconds, own_processes, pss_bytes, staging_ready

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.run import Lab, Run
    from workbench import Bench

CPU_PERCENT = 0.5
MEMORY_MB = 150
CHECKPOINTS = 3
"""Taken before memory is looked at again: what grows with each would show."""
JOB = "import os, time; held = os.urandom(100_000_000); time.sleep(1e6)"
"""It sleeps; what runs is ckptrun's."""


def measure(bench: Bench) -> list[Figure]:
    """Watch runs with nothing to do."""
    figures = []
    for interval in ("off", "10m"):
        with bench.lab("idle") as lab:
            figures += _watch(bench, lab, f"file store, --interval {interval}", interval)
    with _s3_lab(bench) as lab:
        if lab:
            figures += _watch(bench, lab, "s3 store, encrypted, --interval 10m", "10m")
    return figures


def _watch(bench: Bench, lab: Lab, case: str, interval: str) -> list[Figure]:
    bench.say(case)
    run = lab.start(sys.executable, "-c", JOB, options=("--interval", interval))
    staging_ready(run)
    percent = _cpu_percent(run, bench.sizes.idle_seconds)
    before = _beyond_staging(run)
    with _peak(run) as peak:
        for _ in range(CHECKPOINTS):
            run.checkpoint()
    staging_ready(run)
    after = _beyond_staging(run)
    window = f"of one core, utime + stime of all of ckptrun's processes in {bench.sizes.idle_seconds:g} s"
    return [
        at_most(f"processor; {case}", "%", [percent], CPU_PERCENT, f"<= {CPU_PERCENT:g} %", window),
        _memory(f"memory beyond staging, no checkpoint yet; {case}", before),
        _memory(f"memory beyond staging, after {CHECKPOINTS} checkpoints; {case}", after),
        _memory(f"highest memory beyond staging during these, job of 100 MB; {case}", max(peak)),
    ]


def _memory(what: str, used: float) -> Figure:
    return at_most(
        what, "MB", [used / MB], MEMORY_MB, f"< {MEMORY_MB} MB", "PSS of all of ckptrun's processes"
    )


def _cpu_percent(run: Run, seconds: float) -> float:
    """Return the share of a core that ckptrun takes over a while."""
    processes = own_processes(run)
    before, began = cpu_seconds(processes), time.monotonic()
    time.sleep(seconds)
    return (cpu_seconds(processes) - before) / (time.monotonic() - began) * 100


def _beyond_staging(run: Run) -> float:
    """Return the bytes that ckptrun's processes take and staging does not."""
    return pss_bytes(own_processes(run)) - float(run.status()["staging_bytes"])


@contextlib.contextmanager
def _peak(run: Run) -> Iterator[list[float]]:
    """Sample the memory beyond staging while the body runs."""
    samples = [_beyond_staging(run)]
    over = threading.Event()

    def sample() -> None:
        while not over.wait(0.02):
            with contextlib.suppress(OSError, psutil.Error):  # a process that has just ended
                samples.append(_beyond_staging(run))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def _s3_lab(bench: Bench) -> Iterator[Lab | None]:
    """Yield a lab whose store is a real S3 server's; None where there is no such server."""
    try:
        weed()
    except pytest.skip.Exception as reason:
        bench.say(f"that case is left out: {reason}")
        yield None
        return
    place = bench.folder / "s3"
    place.mkdir()
    with S3Server(place) as server:
        env = {**server.env, "CKPTRUN_PASSPHRASE": "benchmark"}
        with bench.lab("idle-s3", store=f"{server.url}/bench", env=env) as lab:
            yield lab
