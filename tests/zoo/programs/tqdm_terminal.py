"""tqdm: a progress bar on a terminal, as wide as the window."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pace import report, sha, steps
from tqdm import tqdm


def main() -> None:
    state = ""
    with Path("states.txt").open("w") as log, tqdm(total=100, file=sys.stdout) as bar:
        for step in steps(100):
            state = sha(state, step, os.get_terminal_size().columns, os.isatty(2))
            print(state, file=log, flush=True)
            bar.update()
    report(state, bar.n)


if __name__ == "__main__":
    main()
