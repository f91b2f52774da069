"""A plain loop that ckptrun knows of: it goes wrong too early, and once while the file `poison` exists."""

from __future__ import annotations

import math
from pathlib import Path

from ckptrun import job

STEPS = 9


def weight() -> float:
    """Return what an undisturbed loop ends with."""
    value = 1.0
    for step in range(1, STEPS + 1):
        value += step / value
    return value


def main() -> None:
    job.on_restore(lambda: print("restored", flush=True))
    try:
        job.guard(error=1.0, loss=math.inf)
    except job.RefusedError as error:
        print("refused", error, flush=True)
    value = 1.0
    for step in job.steps(range(1, STEPS + 1), within=600, checkpoint_every=3):
        loss = math.nan if step == 5 and Path("poison").exists() else 1 / value
        job.guard(loss=loss)
        job.report(loss=loss)
        value += step * loss
    job.checkpoint(wait=True)
    print("weight", value, flush=True)


if __name__ == "__main__":
    main()
