"""How much longer ``ckptrun -- python -c pass`` takes than ``python -c pass``: to come, and to go."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from figures import Figure, at_most, spread

if TYPE_CHECKING:
    from support.run import Lab
    from workbench import Bench

MOST_SECONDS = 0.6
WARM_UPS = 3


def measure(bench: Bench) -> list[Figure]:
    """Start both many times, A B B A; every start under ckptrun begins a lineage."""
    with bench.lab("start") as lab:
        for number in range(WARM_UPS):
            _alone(lab)
            _under(lab, f"warm-up-{number}")
        alone: list[float] = []
        under: list[float] = []
        begun: list[float] = []
        for pair in range(bench.sizes.pairs):
            bench.say(f"pair {pair + 1} of {bench.sizes.pairs}")
            if pair % 2 == 0:
                alone.append(_alone(lab))
            whole, until_job = _under(lab, f"start-{pair}")
            under.append(whole)
            begun.append(until_job)
            if pair % 2:
                alone.append(_alone(lab))
    more = [b - a for a, b in zip(alone, under, strict=True)]
    note = f"{len(more)} pairs, warm machine, file store, a new lineage each"
    return [
        at_most(
            "start and end: under ckptrun - alone", "s", more, MOST_SECONDS, f"<= {MOST_SECONDS:g} s", note
        ),
        spread("of it, until the job is started", "s", begun, "from the command to its job-started event"),
        spread("python -c pass alone", "s", alone),
    ]


def _environment(lab: Lab) -> dict[str, str]:
    """Return an environment as a user's: with compiled modules kept."""
    return {
        name: value
        for name, value in lab.env.items()
        if name not in {"PYTHONDONTWRITEBYTECODE", "PYTHONPATH"}
    }


def _timed(lab: Lab, command: list[str]) -> float:
    began = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=lab.work,
        env=_environment(lab),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    taken = time.perf_counter() - began
    assert done.returncode == 0, done.stderr.decode()
    return taken


def _alone(lab: Lab) -> float:
    return _timed(lab, [sys.executable, "-c", "pass"])


def _under(lab: Lab, name: str) -> tuple[float, float]:
    """Return the seconds of the whole, and those until the job was started."""
    lab.name = name
    program = Path(sys.executable).with_name("ckptrun")
    ckptrun = [str(program)] if program.exists() else [sys.executable, "-m", "ckptrun"]
    began = time.time()
    whole = _timed(lab, [*ckptrun, "--name", name, "--store", lab.store, "--", sys.executable, "-c", "pass"])
    started = dt.datetime.fromisoformat(lab.events("job-started")[0]["time"]).timestamp()
    return whole, started - began
