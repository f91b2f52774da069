"""A job: a chain of hashes, a line per step in a log. Its result needs every step, once and in order."""

from __future__ import annotations

import argparse
import hashlib
import signal
import sys
import time
from pathlib import Path

HOLD = Path("hold")
"""While this file exists, the job does not take its last step, or the one that fails."""


def link(previous: str, step: int) -> str:
    return hashlib.sha256(f"{previous} {step}".encode()).hexdigest()[:16]


def lines(steps: int) -> list[str]:
    """Return what an undisturbed run logs."""
    found, value = [], ""
    for step in range(1, steps + 1):
        value = link(value, step)
        found.append(f"{step} {value}")
    return found


def result(steps: int) -> str:
    """Return what an undisturbed run prints last."""
    return f"result {lines(steps)[-1]}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--pause", type=float, default=0.02)
    parser.add_argument("--log", type=Path, default=Path("log.txt"))
    parser.add_argument("--talk", action="store_true", help="print every step")
    parser.add_argument("--fail-at", type=int, default=0, help="exit with 3 at this step")
    parser.add_argument(
        "--if", dest="only_if", type=Path, help="but only if this file exists, which is removed"
    )
    parser.add_argument("--ignore-term", action="store_true")
    options = parser.parse_args()
    if options.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    options.log.unlink(missing_ok=True)
    value = ""
    with options.log.open("a", encoding="ascii") as log:
        for step in range(1, options.steps + 1):
            while step == (options.fail_at or options.steps) and HOLD.exists():
                time.sleep(0.01)
            value = link(value, step)
            log.write(f"{step} {value}\n")
            log.flush()
            if options.talk:
                print(f"{step} {value}", flush=True)
            if step == options.fail_at and (options.only_if is None or options.only_if.exists()):
                if options.only_if is not None:
                    options.only_if.unlink()
                print("the job fails", file=sys.stderr, flush=True)
                sys.exit(3)
            time.sleep(options.pause)
    print(f"result {options.steps} {value}", flush=True)


if __name__ == "__main__":
    main()
