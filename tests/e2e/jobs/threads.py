"""A job of several threads, each with a chain of its own, that meet at a barrier after every step."""

from __future__ import annotations

import hashlib
import sys
import threading
import time
from pathlib import Path

HOLD = Path("hold")
"""While this file exists, no thread takes its last step."""


def result(threads: int, steps: int) -> str:
    """Return what an undisturbed run prints last."""
    chains = [b""] * threads
    for step in range(steps):
        chains = [advance(index, chain, step) for index, chain in enumerate(chains)]
    return f"result {hashlib.sha256(b''.join(chains)).hexdigest()[:16]}"


def advance(index: int, chain: bytes, step: int) -> bytes:
    return hashlib.sha256(chain + f"{index} {step}".encode()).digest()


def main() -> None:
    threads, steps, pause = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    chains = [b""] * threads
    barrier = threading.Barrier(threads)

    def work(index: int) -> None:
        for step in range(steps):
            while step == steps - 1 and HOLD.exists():
                time.sleep(0.01)
            chains[index] = advance(index, chains[index], step)
            time.sleep(pause)
            if barrier.wait() == 0:
                print(f"step {step}", flush=True)

    running = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    print(f"result {hashlib.sha256(b''.join(chains)).hexdigest()[:16]}", flush=True)


if __name__ == "__main__":
    main()
