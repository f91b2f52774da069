"""What checkpoints cost in the store: bytes and upload time of a first one and of the next; no goals yet."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from figures import Figure, spread
from support.run import REPOSITORY
from workbench import MB

if TYPE_CHECKING:
    from support.run import Run
    from workbench import Bench

BETWEEN_SECONDS = 5.0
STEPS = 1_000_000


def measure(bench: Bench) -> list[Figure]:
    """Checkpoint two jobs twice each."""
    figures: list[Figure] = []
    with bench.lab("digits") as lab:
        bench.say("the digits example")
        script = REPOSITORY / "examples/train_digits.py"
        run = lab.start(sys.executable, script, "--steps", STEPS, "--step-seconds", 0.02)
        run.prints("step ")
        figures += _two(run, "digits example")
    bench.need_memory(4)
    with bench.lab("cost") as lab:
        bench.say("the large job")
        job = bench.memory_job(lab)
        figures += _two(job.run, f"job of {bench.sizes.memory / 1e9:g} GB, 1% of it changing")
    return figures


def _two(run: Run, what: str) -> list[Figure]:
    """Take two checkpoints, a while apart."""
    figures = []
    for which in ("first", "second"):
        time.sleep(BETWEEN_SECONDS)
        name = run.checkpoint()
        shown = next(one for one in run.lab.checkpoints() if one["id"] == name)
        figures += _figures(f"{what}: {which} checkpoint", shown)
    return figures


def _figures(what: str, shown: dict[str, Any]) -> list[Figure]:
    memory = f"of {shown['memory_bytes'] / MB:.0f} MB of memory, {shown['new_bytes'] / MB:.1f} MB new"
    return [
        spread(f"{what}, stored", "MB", [shown["stored_bytes"] / MB], memory),
        spread(f"{what}, upload", "s", [shown["upload_seconds"]], "file store"),
    ]
