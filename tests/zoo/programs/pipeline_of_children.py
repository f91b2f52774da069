"""A generator pipeline through subprocess.Popen pipes: two filters that are fed while they are read."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import IO, TYPE_CHECKING

from pace import report, sha, steps

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SQUARE = "import sys\nfor line in sys.stdin: print(int(line) ** 2, flush=True)"
SUM = "import sys\ntotal = 0\nfor line in sys.stdin:\n total += int(line)\n print(total, flush=True)"


def numbers() -> Iterator[str]:
    for step in steps(100):
        yield f"{step * 7919 % 1009}\n"


def through(code: str, lines: Iterable[str]) -> Iterator[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None
    assert child.stdout is not None
    threading.Thread(target=feed, args=(child.stdin, lines), daemon=True).start()
    yield from child.stdout
    assert child.wait() == 0


def feed(stdin: IO[str], lines: Iterable[str]) -> None:
    with stdin:
        for line in lines:
            stdin.write(line)
            stdin.flush()


def main() -> None:
    state = ""
    with open("totals.txt", "w") as log:  # noqa: PTH123 - as people write it
        for line in through(SUM, through(SQUARE, numbers())):
            state = sha(state, line)
            log.write(line)
    report(state)


if __name__ == "__main__":
    main()
