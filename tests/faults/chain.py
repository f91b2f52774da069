"""The job of these tests: a chain of hashes that leaves an append-only log, a file rewritten in place and a mapping.

It takes steps until a file named ``finish`` exists, however long a fault takes to come, and then says how many. Every
step needs the one before, in memory and in each file: what was lost, or done twice, shows in the end.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import signal
import sys
import time
from pathlib import Path

SLOTS = 64
PAUSE = 0.01


def link(previous: str, step: int) -> str:
    return hashlib.sha256(f"{previous} {step}".encode()).hexdigest()[:16]


def record(step: int, value: str) -> bytes:
    return f"{step:08d} {value}\n".encode() * 100


def undisturbed(steps: int) -> tuple[str, str, bytes, bytes]:
    """Return what so many steps print last, and leave as log, record and mapping."""
    value, log, mapping = "", [], bytearray(SLOTS * 16)
    for step in range(1, steps + 1):
        value = link(value, step)
        log.append(f"{step} {value}\n")
        at = step % SLOTS * 16
        mapping[at : at + 16] = value.encode()
    return f"result {steps} {value}\n", "".join(log), record(steps, value), bytes(mapping)


def is_exact(folder: Path, out: str) -> bool:
    """Say whether the output and the files in `folder` are those of an undisturbed run."""
    words = out.split()
    steps = int(words[1]) if len(words) == 3 else 0
    found = (
        out,
        (folder / "log.txt").read_text(),
        (folder / "record.bin").read_bytes(),
        (folder / "map.bin").read_bytes(),
    )
    return found == undisturbed(steps)


def main() -> None:
    ballast = bytearray(os.urandom(1 << 20)) * int(sys.argv[1]) if len(sys.argv) > 1 else b""
    if "ignore-term" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path("map.bin").write_bytes(bytes(SLOTS * 16))
    Path("log.txt").unlink(missing_ok=True)
    value, step = "", 0
    with (
        Path("log.txt").open("a", encoding="ascii", buffering=1) as log,
        Path("record.bin").open("w+b", buffering=0) as rewritten,
        Path("map.bin").open("r+b") as mapped,
        mmap.mmap(mapped.fileno(), SLOTS * 16) as mapping,
    ):
        while not Path("finish").exists():
            step += 1
            value = link(value, step)
            log.write(f"{step} {value}\n")
            rewritten.seek(0)
            rewritten.write(record(step, value))
            at = step % SLOTS * 16
            mapping[at : at + 16] = value.encode()
            if ballast:
                ballast[step * 4096 % len(ballast)] = step % 256
            time.sleep(PAUSE)
    print("result", step, value, flush=True)


if __name__ == "__main__":
    main()
