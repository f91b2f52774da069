"""What every program of the zoo does alike: steps at a pace, and a digest at the end.

ZOO_PAUSE is the pace, in seconds a step, until a file exists that ZOO_HURRY names. Three quarters on, a program waits
while there is a file that ZOO_HOLD names: it must not be over before all that is to happen to it has. The result must
be the same whatever these are.
"""

from __future__ import annotations

import hashlib
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PAUSE_SECONDS = float(os.environ.get("ZOO_PAUSE", "0"))
HURRY = os.environ.get("ZOO_HURRY", "")
HOLD = os.environ.get("ZOO_HOLD", "")
LOOK_SECONDS = 0.05


def pause() -> float:
    """Return how long to rest after a step, in seconds."""
    return 0.0 if os.path.exists(HURRY) else PAUSE_SECONDS  # noqa: PTH110 - an empty path is none


def steps(count: int) -> Iterator[int]:
    """Count, tell of each number, and rest after it; see above."""
    for number in range(count):
        while number == count * 3 // 4 and os.path.exists(HOLD):  # noqa: PTH110 - an empty path is none
            time.sleep(LOOK_SECONDS)
        print(f"step {number}", flush=True)
        yield number
        time.sleep(pause())


def sha(*results: object) -> str:
    """Return a digest of values whose `repr` says all."""
    return hashlib.sha256(repr(results).encode()).hexdigest()


def report(*results: object) -> None:
    """Print the digest of the results: the last line of every program."""
    print("digest", sha(*results), flush=True)
