"""Whether a job is slower under ckptrun while no checkpoint is due: pairs of runs, alone and under it, interleaved."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from figures import Figure, ratio, same, spread
from workbench import JOBS

if TYPE_CHECKING:
    from support.run import Lab
    from workbench import Bench

TOLERANCE = 0.01
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def measure(bench: Bench) -> list[Figure]:
    """Compare a job with itself under ckptrun; A B B A, so that a drift of the machine counts for both alike."""
    with bench.lab("overhead", env=ONE_THREAD) as lab:
        first = _alone(lab, 4)[0] / 4
        rounds = max(round(bench.sizes.job_seconds / first), 1)
        alone: list[tuple[float, float]] = []
        under: list[tuple[float, float]] = []
        for pair in range(bench.sizes.pairs):
            bench.say(f"pair {pair + 1} of {bench.sizes.pairs}")
            if pair % 2:
                under.append(_under(lab, rounds, pair))
                alone.append(_alone(lab, rounds))
            else:
                alone.append(_alone(lab, rounds))
                under.append(_under(lab, rounds, pair))
    wall = [b[0] / a[0] for a, b in zip(alone, under, strict=True)]
    cpu = [b[1] / a[1] for a, b in zip(alone, under, strict=True)]
    noise = [b[0] / a[0] for a, b in zip(alone[1::2], alone[2::2], strict=False)]
    note = f"{len(wall)} pairs, timed inside the job, --interval 10m"
    figures = [
        same("time under ckptrun / alone", wall, TOLERANCE, note),
        ratio("processor time of the job, likewise", cpu, "utime + stime of the job"),
        spread("the job alone", "s", [one[0] for one in alone]),
    ]
    if len(noise) > 2:
        figures.append(
            ratio(
                "for comparison: alone / alone, one after the other", noise, "what the machine does by itself"
            )
        )
    return figures


def _alone(lab: Lab, rounds: int) -> tuple[float, float]:
    command = [sys.executable, str(JOBS / "crunch.py"), str(rounds)]
    done = subprocess.run(
        command, cwd=lab.work, env=lab.env, stdin=subprocess.DEVNULL, capture_output=True, check=True
    )
    return _read(done.stdout)


def _under(lab: Lab, rounds: int, number: int) -> tuple[float, float]:
    lab.name = f"overhead-{number}"
    result = lab.run(sys.executable, JOBS / "crunch.py", rounds, options=("--interval", "10m"))
    assert result.code == 0, result.err
    return _read(result.stdout)


def _read(output: bytes) -> tuple[float, float]:
    wall, cpu = output.split()
    return float(wall), float(cpu)
