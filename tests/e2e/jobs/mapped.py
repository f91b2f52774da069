"""A job that keeps its work in files only: a shared mapping, a file rewritten in place, an append-only log.

Every step depends on what the mapping held before: one restored into a mixed state gives a wrong result.
"""

from __future__ import annotations

import hashlib
import mmap
import sys
import time
from pathlib import Path

HOLD = Path("hold")
"""While this file exists, the job does not take its last step."""
SIZE = 1 << 20
SLOTS = SIZE // 32


def slot_of(step: int) -> int:
    return step * 7919 % 1009


def undisturbed(steps: int) -> tuple[bytes, bytes, bytes]:
    """Return the mapping, the record and the log as an undisturbed run leaves them."""
    mapping = bytearray(SIZE)
    log = b"".join(advance(mapping, step) for step in range(steps))
    return bytes(mapping), record(steps - 1), log


def advance(mapping: bytearray | mmap.mmap, step: int) -> bytes:
    """Change one slot by what it and a neighbour held; return the log's line."""
    at, other = slot_of(step) * 32, slot_of(step + 1) * 32
    digest = hashlib.sha256(mapping[at : at + 32] + mapping[other : other + 32] + str(step).encode()).digest()
    mapping[at : at + 32] = digest
    return f"{step} {digest.hex()}\n".encode()


def record(step: int) -> bytes:
    return f"{step:08d}\n".encode() * 512


def main() -> None:
    steps, pause = int(sys.argv[1]), float(sys.argv[2])
    Path("map.bin").write_bytes(bytes(SIZE))
    Path("log.bin").unlink(missing_ok=True)
    with Path("map.bin").open("r+b") as mapped, Path("log.bin").open("ab", buffering=0) as log:
        mapping = mmap.mmap(mapped.fileno(), SIZE)
        with Path("record.txt").open("w+b", buffering=0) as rewritten:
            for step in range(steps):
                while step == steps - 1 and HOLD.exists():
                    time.sleep(0.01)
                log.write(advance(mapping, step))
                rewritten.seek(0)
                rewritten.write(record(step))
                time.sleep(pause)
        mapping.flush()
        mapping.close()
    print("result", hashlib.sha256(Path("map.bin").read_bytes()).hexdigest()[:16], flush=True)


if __name__ == "__main__":
    main()
