"""What a GPU adds to a checkpoint, by a stand-in for one: to the freeze, and to the time its job's CUDA calls wait.

Two jobs take checkpoints by turns. The one has its memory on the GPU: it comes into the machine's before the freeze.
The other has as much of its own, so that the copy into staging is the same. The stand-in's steps take known times,
which are told apart from what ckptrun adds to them between the lock and the unlock.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from figures import Figure, at_most, spread
from support.cuda_standin import Standin
from workbench import staging_ready

if TYPE_CHECKING:
    from support.run import Run
    from workbench import Bench

LOCK_SECONDS, MOVE_SECONDS, WAKE_SECONDS = 0.1, 0.3, 1.0
"""Of the stand-in: to wait for submitted work, to move memory (each way), to initialise CUDA in who calls it."""
SHARE = 5
"""One part in so many of the large job's memory is on the GPU."""
FROZEN_SECONDS = 0.03
"""What the frozen time of two jobs alike may differ by."""
GOAL_SECONDS = 0.15
JOB = "import time\nx = b'\\x01' * {size}\nwhile True: time.sleep(0.05)"
STEPS = ("lock", "checkpoint", "restore", "unlock")


def measure(bench: Bench) -> list[Figure]:
    """Take pairs of checkpoints, with memory on the GPU and with as much elsewhere."""
    bench.need_memory(4)
    size = bench.sizes.memory // SHARE
    standin = Standin(bench.folder / "standin")
    for step, seconds in (("lock", LOCK_SECONDS), ("checkpoint", MOVE_SECONDS), ("restore", MOVE_SECONDS)):
        standin.fault(step, f"wait:{seconds}", times=1_000_000)
    (standin.folder / "initialise-seconds").write_text(str(WAKE_SECONDS))
    options = "&".join(f"{name}={value}" for name, value in {**standin.options, "driver": "bindings"}.items())
    site = {"PYTHONPATH": str(standin.folder / "site")}
    with bench.lab("gpu", env=site) as lab, bench.lab("plain") as other:
        player = standin.command("bench", gpus=[], memory=size)
        gpu = lab.start(*player, options=["--hook", f"cuda?{options}"])
        plain = other.start(sys.executable, "-c", JOB.format(size=size))
        runs = (gpu, plain)
        for run in runs:
            staging_ready(run)
            _frozen(run)  # the first finds staging too small: what a GPU brings was not there before
            _frozen(run)
        frozen: dict[Run, list[float]] = {gpu: [], plain: []}
        whole, own = [], []
        for pair in range(max(bench.sizes.pairs // 2, 3)):
            bench.say(f"pair {pair + 1}")
            for run in runs if pair % 2 else runs[::-1]:
                seen = len(standin.log())
                frozen[run].append(_frozen(run))
                if run is gpu:
                    locked, steps = _locked(standin, seen)
                    whole.append(locked)
                    own.append(steps)
    ours = [w - o - f for w, o, f in zip(whole, own, frozen[gpu], strict=True)]
    case = f"{size / 1e6:g} MB on the GPU; a stand-in, see above"
    return [
        at_most(
            "frozen_seconds: memory on the GPU - as much elsewhere",
            "s",
            [one - two for one, two in zip(frozen[gpu], frozen[plain], strict=True)],
            FROZEN_SECONDS,
            "nothing (two runs differ by less)",
            case,
        ),
        spread("frozen_seconds, memory on the GPU", "s", frozen[gpu]),
        at_most(
            "from lock to unlock, less the freeze and the driver's own steps",
            "s",
            ours,
            GOAL_SECONDS,
            f"<= {GOAL_SECONDS:g} s",
            "what ckptrun adds to the time that CUDA calls wait",
        ),
        spread("from the lock to the unlock", "s", whole, "what the job's CUDA calls wait"),
        spread(
            "of it, the driver's own steps",
            "s",
            own,
            "of the stand-in: its lock, checkpoint, restore, unlock",
        ),
    ]


def _frozen(run: Run) -> float:
    """Take a checkpoint, wait for its commit, and return its frozen time."""
    name = run.checkpoint()
    event = next(event for event in run.lab.events("checkpoint-staged") if event["id"] == name)
    return float(event["frozen_seconds"])


def _locked(standin: Standin, seen: int) -> tuple[float, float]:
    """Return the seconds from the beginning of the lock to the end of the unlock, and those of the steps alone."""
    began, ended = {}, {}
    for line in standin.log()[seen:]:
        if line.get("call") in STEPS:
            began.setdefault(line["call"], line["at"])
        if line.get("done") in STEPS:
            ended[line["done"]] = line["at"]
    steps = sum(ended[step] - began[step] for step in STEPS)
    return ended["unlock"] - began["lock"], steps
