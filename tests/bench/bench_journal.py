"""What a job's files add to the time for which a checkpoint stops it.

Two jobs take checkpoints by turns. Both hold 200 files open; one only reads them, the other writes to them, has written
10,000 more files, and rewrites 100 of those between two checkpoints.
"""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING

from figures import Figure, at_most, spread

if TYPE_CHECKING:
    from support.run import Run
    from workbench import Bench

GOAL_SECONDS = 0.05
OPEN, WRITTEN, CHANGED = 200, 10_000, 100
JOB = """
import os, sys, time
from pathlib import Path
opened, written, changed = map(int, sys.argv[2:])
held = []
if sys.argv[1] == "write":
    for folder in range(100):
        os.mkdir(f"d{folder}")
    for number in range(written):
        Path(f"d{number % 100}/f{number}").write_bytes(b"%d " % number * 500)
    held = [open(f"open-{number}", "ab" if number % 2 else "w+b", 0) for number in range(opened)]
else:
    held = [open(f"open-{number}", "rb") for number in range(opened)]
turn = 0
while True:
    if Path("turn").exists():
        os.unlink("turn")
        turn += 1
        for number in range(changed if sys.argv[1] == "write" else 0):
            Path(f"d{number}/f{number + turn % 90 * 100}").write_bytes(b"%d " % turn * 500)
        for file in held if sys.argv[1] == "write" else ():
            file.write(b"a line of a log\\n")
        Path("ready").touch()
    time.sleep(0.005)
"""


def measure(bench: Bench) -> list[Figure]:
    """Take pairs of checkpoints."""
    pairs = bench.sizes.pairs
    with bench.lab("reads") as plain, bench.lab("writes") as full:
        for number in range(OPEN):
            (plain.work / f"open-{number}").touch()
        sizes = (OPEN, WRITTEN, CHANGED)
        runs = {
            "reads": plain.start(sys.executable, "-c", JOB, "read", *sizes),
            "writes": full.start(sys.executable, "-c", JOB, "write", *sizes),
        }
        bench.say("one of each that does not count: it stores all files")
        for run in runs.values():
            _frozen(run)
        taken: dict[str, list[float]] = {name: [] for name in runs}
        inside = []
        for number, (name, run) in itertools.product(range(pairs), runs.items()):
            bench.say(f"pair {number + 1} of {pairs}")
            taken[name].append(_frozen(run))
            if name == "writes":
                inside.append(run.lab.ask("files", "--json").json["bytes_inside"] / 1e6)
    added = [write - read for read, write in zip(taken["reads"], taken["writes"], strict=True)]
    case = f"{WRITTEN} files written so far, {CHANGED} of them since the checkpoint before, {OPEN} open"
    return [
        at_most("added frozen time", "s", added, GOAL_SECONDS, f"<= {GOAL_SECONDS:g} s", case),
        spread("frozen_seconds with these files", "s", taken["writes"]),
        spread("frozen_seconds without", "s", taken["reads"], f"{OPEN} files open for reading"),
        spread("copied while stopped", "MB", inside),
    ]


def _frozen(run: Run) -> float:
    """Have the job do its turn, take a checkpoint and return the seconds it was stopped."""
    (run.lab.work / "turn").touch()
    ready = run.lab.work / "ready"
    run.until("the job's turn", ready.exists, 120)
    ready.unlink()
    name = run.checkpoint()
    return float(next(one for one in run.lab.checkpoints() if one["id"] == name)["frozen_seconds"])
