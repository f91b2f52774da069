"""NumPy: a matrix that lives in a file, changed in place."""

from __future__ import annotations

import numpy as np
from pace import report, steps


def main() -> None:
    matrix = np.memmap("matrix.bin", dtype=np.float64, mode="w+", shape=(500, 500))
    matrix[:] = np.random.default_rng(7).normal(size=matrix.shape)
    for step in steps(120):
        matrix[:] = np.roll(matrix, 1, axis=step % 2) * 0.99 + matrix.T * 0.01
        if step % 10 == 0:
            matrix.flush()
    matrix.flush()
    report(matrix.tobytes())


if __name__ == "__main__":
    main()
