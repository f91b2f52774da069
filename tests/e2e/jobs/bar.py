"""A job for a terminal: a progress bar that fills the window, and opinions about Ctrl-C."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

HOLD = Path("hold")
"""While this file exists, the bar does not become full."""


def main() -> None:
    steps, pause = int(sys.argv[1]), float(sys.argv[2])
    print(f"terminals {[os.isatty(fd) for fd in (0, 1, 2)]}", flush=True)
    signal.signal(signal.SIGWINCH, lambda *_: print(f"\r\nresized to {size()}", flush=True))
    print(f"size {size()}", flush=True)
    try:
        for step in range(1, steps + 1):
            while step == steps and HOLD.exists():
                time.sleep(0.01)
            print(f"\rstep {step} of {steps}", end="", flush=True)
            time.sleep(pause)
    except KeyboardInterrupt:
        print("\r\ninterrupted by the user", flush=True)
        sys.exit(130)
    print("\r\nfull", flush=True)


def size() -> str:
    columns, rows = shutil.get_terminal_size()
    return f"{columns}x{rows}"


if __name__ == "__main__":
    main()
