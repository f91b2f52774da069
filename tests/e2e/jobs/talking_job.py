"""A job that talks to ckptrun: each command is one story. Importable without anything but `ckptrun.job`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from ckptrun import job

HOLD = Path("hold")


def say(*words: object) -> None:
    print(*words, flush=True)


def until_released() -> None:
    while HOLD.exists():
        time.sleep(0.01)


def who() -> str:
    return f"incarnation {job.incarnation()} restores {job.restores()}"


def asking(how: str) -> None:
    """Take a checkpoint, say its id, and wait; after a restore the call returns as well."""
    job.on_restore(lambda: say("restored", who()))
    job.on_checkpoint(lambda: say("committed"))
    say("ready", job.lineage(), who())
    say("checkpoint", job.checkpoint(wait=how == "wait"), who())
    while HOLD.exists():
        job.safe_point()
        time.sleep(0.01)
    say("environment", job.environment().get("TODAY"), os.environ.get("TODAY"))
    say("left", [path.name for path in Path("/dev/shm/.ckptrun/notify/r").iterdir()])
    say("done")


def twice() -> None:
    say("first", job.checkpoint(wait=True))
    until_released()
    say("second", job.checkpoint(wait=True))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
