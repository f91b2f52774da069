"""Work with the processor and with memory, and print how long that took: seconds passed, seconds of processor.

python crunch.py ROUNDS

Start-up is not counted. Half a round is Python's own (objects, a dictionary), half is numpy's (sorting, multiplying,
streaming through more than caches hold).
"""

import sys
import time

import numpy as np


def main() -> None:
    rounds = int(sys.argv[1])
    chance = np.random.default_rng(1)
    table = chance.random(1 << 17)
    square = chance.random((300, 300))
    stream = np.zeros(1 << 23)
    one_round(table, square, stream)
    began, began_cpu = time.perf_counter(), time.process_time()
    for _ in range(rounds):
        one_round(table, square, stream)
    print(time.perf_counter() - began, time.process_time() - began_cpu, flush=True)


def one_round(table: np.ndarray, square: np.ndarray, stream: np.ndarray) -> None:
    counts: dict[int, int] = {}
    for number in range(200_000):
        key = number * 2654435761 % 65_537
        counts[key] = counts.get(key, 0) + 1
    np.sort(table)
    square @ square
    stream += 1.0


main()
