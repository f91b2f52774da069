"""What hooks add to a checkpoint: ten executables that do nothing, and none at all.

Two jobs of the same kind take checkpoints by turns; one has ten hooks that take part in every phase. A checkpoint lasts
from its request until it is complete, so its figures hold twenty starts of a program: before the freeze and after it.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from figures import Figure, at_most, spread
from workbench import staging_ready

from ckptrun.hooking.contract import Checkpoint, Occasion, Phase
from ckptrun.hooking.phases import Hooks

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.run import Run
    from workbench import Bench

HOOKS = 10
GOAL_SECONDS = 0.3
FROZEN_SECONDS = 0.02
"""What the frozen time of two jobs alike may differ by: nothing of hooks is in it."""
FREE_MICROSECONDS = 50.0
JOB = "import time\nwhile True: time.sleep(0.01)"


def measure(bench: Bench) -> list[Figure]:
    """Take pairs of checkpoints, with hooks and without."""
    with bench.lab("hooked") as lab, bench.lab("free") as plain:
        for number in range(HOOKS):
            path = lab.work / f"hook-{number}"
            path.write_text("#!/bin/sh\nexit 0\n")
            path.chmod(0o755)
        options = [word for number in range(HOOKS) for word in ("--hook", f"./hook-{number}")]
        hooked = lab.start(sys.executable, "-c", JOB, options=options)
        free = plain.start(sys.executable, "-c", JOB)
        runs = (hooked, free)
        for run in runs:
            staging_ready(run)
            _checkpoint(run)
        added, inside = [], []
        for pair in range(max(bench.sizes.pairs // 2, 3)):
            bench.say(f"pair {pair + 1}")
            order = runs if pair % 2 else runs[::-1]
            seen = {run: _checkpoint(run) for run in order}
            added.append(seen[hooked][0] - seen[free][0])
            inside.append(seen[hooked][1] - seen[free][1])
        each = [float(event["seconds"]) for event in lab.events("hook")]
    words = f"{HOOKS} hooks, each run before and after"
    return [
        at_most(
            "time until complete: with - without", "s", added, GOAL_SECONDS, f"<= {GOAL_SECONDS} s", words
        ),
        at_most(
            "frozen_seconds: with - without",
            "s",
            inside,
            FROZEN_SECONDS,
            "nothing (two runs differ by less)",
            words,
        ),
        at_most(
            "what a checkpoint without hooks pays for them",
            "us",
            [_microseconds(_nothing) for _ in range(20)],
            FREE_MICROSECONDS,
            f"<= {FREE_MICROSECONDS:g} us",
            "the calls alone; no thread, no process",
        ),
        spread("one hook, from its start to its end", "s", each, "of its events, all phases"),
    ]


def _checkpoint(run: Run) -> tuple[float, float]:
    """Take one and wait for its commit; return seconds until it was complete, and frozen."""
    started = time.monotonic()
    name = run._ask({"request": "checkpoint", "wait": False})["id"]
    taken = time.monotonic() - started
    run.until("commit", lambda: any(e["id"] == name for e in run.lab.events("checkpoint-committed")))
    frozen = next(e["frozen_seconds"] for e in run.lab.events("checkpoint-staged") if e["id"] == name)
    if run.lab.events("hook"):  # its post-commit hooks shall not be in the way of the next
        count = 3 * HOOKS
        run.until("last hook", lambda: sum(e["checkpoint"] == name for e in run.lab.events("hook")) >= count)
    return taken, float(frozen)


def _nothing() -> None:
    hooks = Hooks()
    bracket = hooks.bracket(Occasion(Phase.PRE_CHECKPOINT, 1, Checkpoint("x", "request", 0.0)))
    bracket.open()
    bracket.close(Occasion(Phase.POST_CHECKPOINT))
    hooks.later(Occasion(Phase.POST_COMMIT))


def _microseconds(work: Callable[[], None], rounds: int = 200) -> float:
    started = time.perf_counter()
    for _ in range(rounds):
        work()
    return (time.perf_counter() - started) / rounds * 1e6
