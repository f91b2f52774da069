"""A job that works through the lines of its standard input, slowly; what it did is in a log, line by line."""

from __future__ import annotations

import sys
import time
from pathlib import Path

HOLD = Path("hold")
"""While this file exists, the job does not end."""


def main() -> None:
    pause = float(sys.argv[1])
    Path("done.txt").unlink(missing_ok=True)
    count = 0
    with Path("done.txt").open("a", encoding="utf-8") as done:
        for line in sys.stdin:
            count += 1
            done.write(line)
            done.flush()
            time.sleep(pause)
        while HOLD.exists():
            time.sleep(0.01)
    print(f"{count} lines", flush=True)


if __name__ == "__main__":
    main()
