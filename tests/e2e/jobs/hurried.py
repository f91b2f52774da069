"""Runs a script that pauses no more once the file ``hurry`` exists: its slowness is for the kills before that."""

from __future__ import annotations

import runpy
import sys
import time
from pathlib import Path

HURRY = Path("hurry")

_sleep = time.sleep


def main() -> None:
    time.sleep = lambda seconds: None if HURRY.exists() else _sleep(seconds)
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
