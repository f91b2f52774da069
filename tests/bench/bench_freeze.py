"""How long a checkpoint stops a large job, against a memmove of the same bytes.

Part of `run.py`, with the whole of ckptrun around the job; by itself, ``python bench_freeze.py``, it measures the
engine alone and prints one JSON line per figure, in seconds. Staging is warm, as it is when checkpoints are taken
regularly; `measure` also takes some after a while without.
"""

# ruff: noqa: E402 - where the modules of tests/ are found must be said before they are imported

from __future__ import annotations

import ctypes
import json
import os
import statistics
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

sys.path[:0] = [str(Path(__file__).parents[n] / part) for n, part in ((2, ""), (1, ""), (1, "capsule"))]

import machine
from figures import Figure, at_most, ratio, spread
from live import Job, Machine, wait_until

from ckptrun.criu.staging import Slot

if TYPE_CHECKING:
    from workbench import Bench, Ticking

FACTOR, FIXED_SECONDS = 2.0, 0.15
IDLE_SECONDS, IDLE_ROUNDS = 20.0, 3
"""Long enough for a host that takes idle memory back to take it."""
RESTORE_SECONDS = 3.0
SIZE = int(os.environ.get("CKPTRUN_BENCH_MB", "1000")) * 1_000_000
ROUNDS = int(os.environ.get("CKPTRUN_BENCH_ROUNDS", "5"))
JOB = f"""
import os, time
block = os.urandom(1 << 24)
x = bytearray({SIZE})
for at in range(0, len(x), len(block)): x[at:at + len(block)] = block[: len(x) - at]
n = 0
while True:
    n += 1
    print("tick", n, time.monotonic(), flush=True)
    time.sleep(0.005)
"""


def measure(bench: Bench) -> list[Figure]:
    """Take checkpoints of the large job one after the other, each right after a memmove."""
    bench.need_memory(6)
    with bench.lab("freeze") as lab:
        job = bench.memory_job(lab)
        bench.say("two that do not count: the slots of staging take turns")
        _checkpoint(bench, job)
        _checkpoint(bench, job)
        taken = []
        for number in range(bench.sizes.checkpoints):
            bench.say(f"checkpoint {number + 1} of {bench.sizes.checkpoints}")
            taken.append(_checkpoint(bench, job))
        idle = []
        for _ in range(IDLE_ROUNDS):
            bench.say(f"a checkpoint after {IDLE_SECONDS:g} s without one")
            time.sleep(IDLE_SECONDS)
            idle.append(_checkpoint(bench, job)[0])
        machine.free_buffers()
    frozen, copied, felt = ([one[column] for one in taken] for column in range(3))
    goal = FACTOR * statistics.median(copied) + FIXED_SECONDS
    words = f"<= {FACTOR:g} x memmove + {FIXED_SECONDS:g} s = {goal:.3f} s"
    case = f"job of {bench.sizes.memory / 1e9:g} GB, its memory warm and in pages of 4 KiB, staging used seconds before"
    return [
        at_most("frozen_seconds", "s", frozen, goal, words, case),
        spread("memmove of the same bytes", "s", copied, "warm to warm, huge pages, between the checkpoints"),
        ratio("frozen_seconds / memmove", [f / m for f, m in zip(frozen, copied, strict=True)]),
        spread("longest pause the job felt", "s", felt, "by its own clock; it looks every 20 ms"),
        spread(
            f"frozen_seconds, {IDLE_SECONDS:g} s after the checkpoint before",
            "s",
            idle,
            "the host may have taken staging's memory back",
        ),
    ]


def _checkpoint(bench: Bench, job: Ticking) -> tuple[float, float, float]:
    """Take one; return the seconds frozen, of the memmove, and of the longest pause the job felt."""
    copied = machine.memmove_seconds(bench.sizes.memory)
    job.wait_for_tick()
    seen = len(job.ticks)
    name = job.run.checkpoint()
    job.wait_for_tick()
    shown = next(one for one in job.run.lab.checkpoints() if one["id"] == name)
    copied *= shown["memory_bytes"] / bench.sizes.memory
    return float(shown["frozen_seconds"]), copied, job.longest_gap(seen)


def copy_seconds(target: Slot, source: Slot, size: int) -> float:
    """Copy `size` warm bytes to a warm place."""
    started = time.perf_counter()
    ctypes.memmove(target._address, source._address, size)
    return time.perf_counter() - started


def tell(name: str, values: list[float], goal: float, **more: float) -> None:
    """Print one figure."""
    median = statistics.median(values)
    figure = {"name": name, "unit": "s", "median": median, "lowest": min(values), "highest": max(values)}
    figure |= {"goal": goal, "met": median <= goal, **more}
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in figure.items()}), flush=True)


def pause(job: Job, since: float) -> float:
    """Return the longest time between two ticks of the job after `since`: the freeze as the job felt it."""
    clocks = [clock for _, clock in job.out.ticks() if clock > since]
    return max(b - a for a, b in pairwise(clocks))


def engine_alone(place: Machine) -> None:
    """Dump into two slots by turns, then restore the last dump a few times."""
    job = place.job(JOB)
    job.out.find("tick 3", 120)
    slots = [Slot(SIZE + (256 << 20)) for _ in range(2)]
    for slot in slots:
        slot.populate(slot.capacity)
    frozen, felt, copies, back = [], [], [], []
    for n in range(ROUNDS):
        slot, other = slots[n % 2], slots[1 - n % 2]
        begun = job.out.ticks()[-1][1]
        images = job.dump(slot)
        time.sleep(0.05)
        felt.append(pause(job, begun))
        frozen.append(images.frozen_seconds)
        copies.append(copy_seconds(other, slot, slot.used))
    copy = statistics.median(copies)
    goal = FACTOR * copy + FIXED_SECONDS
    for name, values in (("frozen time", frozen), ("pause the job felt", felt)):
        tell(name, values, goal, ratio=statistics.median(values) / copy, bytes=slot.used, memmove=copy)
    dumped = job
    for _ in range(3):
        killed = time.perf_counter()
        job.capsule.destroy()
        job = place.job()
        job.restore(images.images, dumped)
        wait_until(job.out.ticks, 60)
        back.append(time.perf_counter() - killed)
    tell("from kill to running, local memory", back, RESTORE_SECONDS, bytes=slot.used)


if __name__ == "__main__":
    bench_machine = Machine()
    try:
        engine_alone(bench_machine)
    finally:
        bench_machine.close()
