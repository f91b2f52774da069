"""A job: each step a line on standard output and in a file, with a digest over all of them that is kept in memory.

python3 counting.py STEPS CODE: it ends with CODE. While there is a file `hold`, it does not take its last step. When
there is a file `hog`, it says so, and when that has gone takes more memory than any container here may have.
"""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path

HOG_BYTES = 4 << 30
PIECE = 8 << 20


def lines(steps: int) -> list[str]:
    """Return what an undisturbed run writes."""
    digest, found = hashlib.sha256(), []
    for step in range(1, steps + 1):
        digest.update(b"%d\n" % step)
        found.append(f"{step} {digest.hexdigest()[:16]}")
    return found


def result(steps: int) -> str:
    """Return what an undisturbed run prints last."""
    return f"result {lines(steps)[-1]}"


def hog(folder: Path) -> None:
    print("hogging", flush=True)
    while (folder / "hog").exists():
        time.sleep(0.01)
    held = [bytearray(b"x" * PIECE) for _ in range(HOG_BYTES // PIECE)]
    sys.exit(f"{len(held)} pieces, and nobody minded")


def main() -> None:
    steps, code = int(sys.argv[1]), int(sys.argv[2])
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    text = ""
    with (folder / "log.txt").open("w", encoding="ascii") as log:
        for step in range(1, steps + 1):
            while step == steps and (folder / "hold").exists():
                time.sleep(0.01)
            if (folder / "hog").exists():
                hog(folder)
            digest.update(b"%d\n" % step)
            text = f"{step} {digest.hexdigest()[:16]}"
            print(text, flush=True)
            log.write(f"{text}\n")
            log.flush()
            time.sleep(0.02)
    print(f"result {text}", flush=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
