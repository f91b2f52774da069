"""Dump and restore a threaded Python job, as the one who runs this. Prints "fine"."""

# ruff: noqa: E402 - where the modules are found must be said before they are imported

from __future__ import annotations

import os
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS), str(TESTS / "capsule")]

import time

from live import COUNTER, PYTHON, Job, Machine, reader

from ckptrun.capsule.spec import Offsets
from ckptrun.core.model import BytesSource

THREADED = (
    "import threading, time\nthreading.Thread(target=time.sleep, args=(10**6,), daemon=True).start()\n"
    + COUNTER
)


def main() -> None:
    """Three incarnations, two restores, with the clock going on."""
    machine = Machine()
    mapping = (os.getuid(), os.getgid())
    try:
        job = machine.job([PYTHON, "-c", THREADED], user_namespace=mapping, deny_io_uring=False)
        job.out.find("tick 3")
        base = 0
        for _ in range(2):
            clocks: list[tuple[int, float]] = []
            instants: list[int] = []

            def frozen(
                _: object,
                job: Job = job,
                clocks: list[tuple[int, float]] = clocks,
                instants: list[int] = instants,
                base: int = base,
            ) -> None:
                job.out.settled()
                clocks.append(job.out.ticks()[-1])
                instants.append(time.clock_gettime_ns(time.CLOCK_MONOTONIC) + base)

            result = job.dump(machine.slot(), frozen, unprivileged=True)
            images = {
                name: BytesSource(b"".join(map(bytes, e.pieces()))) for name, e in result.images.items()
            }
            assert reader().last_pid(images) >= 1001
            job.capsule.destroy()
            time.sleep(1.0)
            base = instants[0] - time.clock_gettime_ns(time.CLOCK_MONOTONIC)
            new = machine.job(user_namespace=mapping, offsets=Offsets(base, 0))
            new.restore(images, job, unprivileged=True)
            new.out.goes_on()
            number, clock = new.out.ticks()[0]
            assert number == clocks[0][0] + 1, (number, clocks)
            latest = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + base
            assert clocks[0][1] * 1e9 < clock * 1e9 < latest, (clock, clocks, latest)
            job = new
    finally:
        machine.close()
    print("fine")


if __name__ == "__main__":
    main()
