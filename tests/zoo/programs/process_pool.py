"""ProcessPoolExecutor, by the start method of the argument: queues, semaphores, workers that live on."""

from __future__ import annotations

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

from pace import report, sha, steps


def main() -> None:
    method = sys.argv[1]
    states = [""] * 6
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context(method)) as pool:
        for step in steps(100):
            states = list(pool.map(sha, states, [step] * len(states)))
    report(states)


if __name__ == "__main__":
    main()
