"""How soon a large job that was killed says something again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from figures import Figure, at_most, spread
from workbench import Ticking

if TYPE_CHECKING:
    from support.run import Lab
    from workbench import Bench

MOST_SECONDS = 3.0


def measure(bench: Bench) -> list[Figure]:
    """Kill the job, then ckptrun itself, each right after a commit."""
    bench.need_memory(4)
    with bench.lab("restore") as lab:
        job = bench.memory_job(lab)
        local = []
        for number in range(bench.sizes.restores + 1):
            bench.say(f"kill {number} of {bench.sizes.restores}" if number else "a first kill, not counted")
            local.append(_kill_job(job))
        stored = []
        for number in range(bench.sizes.restores):
            bench.say(f"kill of ckptrun {number + 1} of {bench.sizes.restores}")
            job, seconds = _kill_supervisor(bench, lab, job)
            stored.append(seconds)
    size = f"job of {bench.sizes.memory / 1e9:g} GB"
    return [
        at_most(
            "from local memory: SIGKILL of the job to its next line",
            "s",
            local[1:],
            MOST_SECONDS,
            f"<= {MOST_SECONDS:g} s",
            f"{size}, staging filled seconds before",
        ),
        spread(
            "from a file store: the same command again to the job's next line",
            "s",
            stored,
            f"{size}, ckptrun killed before, the store's files in the page cache",
        ),
    ]


def _kill_job(job: Ticking) -> float:
    job.run.checkpoint()
    job.wait_for_tick()
    seen = len(job.ticks)
    began = time.monotonic()
    job.run.kill_job()
    seconds = job.wait_for_return(seen).at - began
    job.wait_for_tick()
    return seconds


def _kill_supervisor(bench: Bench, lab: Lab, job: Ticking) -> tuple[Ticking, float]:
    job.run.checkpoint()
    job.run.kill_supervisor()
    began = time.monotonic()
    again = Ticking(lab, bench.memory_command())
    again.wait_for_tick()
    first = again.ticks[0]
    assert first.number > 0, "the job began anew in place of going on"
    return again, first.at - began
