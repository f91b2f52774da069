"""Hold memory that stays warm, change some of it, and print a line every 20 ms: its number and how long it took.

python memory.py BYTES SHARE

The bytes are random, so that no store gets them for less. Every page is read about once a second: on some machines
memory that is left alone goes back to the host, and getting it back is another case than the one to be measured.
The first SHARE of it is written to just as often.
"""

import sys
import time

import numpy as np

TICK_SECONDS = 0.02
ROUND = 50
PAGE = 4096


def main() -> None:
    size, share = int(sys.argv[1]), float(sys.argv[2])
    memory = np.frombuffer(bytearray(size), dtype=np.uint8)
    chance = np.random.default_rng(1)
    for at in range(0, size, 1 << 24):
        part = memory[at : at + (1 << 24)]
        part[:] = chance.integers(0, 256, len(part), dtype=np.uint8)
    changing = memory[: int(size * share)]
    before, number = time.monotonic(), 0
    while True:
        slot = number % ROUND
        step = -(-size // ROUND)
        memory[slot * step : (slot + 1) * step : PAGE].max()
        step = -(-len(changing) // ROUND)
        changing[slot * step : (slot + 1) * step] += 1
        now = time.monotonic()
        print(number, f"{now - before:.6f}", flush=True)
        before, number = now, number + 1
        time.sleep(TICK_SECONDS)


main()
