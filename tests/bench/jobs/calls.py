"""Times the SDK's calls from inside a job and prints the samples as JSON, seconds each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from ckptrun import job
from ckptrun.job import _channel, state

if TYPE_CHECKING:
    from collections.abc import Callable

IMPORT = "import time; t = time.perf_counter(); import ckptrun.job; print(time.perf_counter() - t)"


def timed(count: int, call: Callable[[], object], pause: float = 0.0) -> list[float]:
    samples = []
    for _ in range(count):
        began = time.perf_counter()
        call()
        samples.append(time.perf_counter() - began)
        if pause:
            time.sleep(pause)
    return samples


def imported() -> float:
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True)
    return float(done.stdout)


def section() -> None:
    with job.critical():
        pass


def main() -> None:
    count = int(sys.argv[1])
    job.on_restore(lambda: None)
    section()
    loop = iter(job.steps(range(2 * count), within=60))
    beat = _channel.encoded("heartbeat", {"within": 60.0, "slack": 1.0})
    small, large = b"x" * 1024, os.urandom(1 << 20)
    samples = {
        "state 1 KiB": timed(count, lambda: state.put("small", small)),
        "state 1 MiB": timed(max(count // 10, 3), lambda: state.put("large", large)),
        "beat": timed(count, lambda: _channel.post(beat), 0.001),
        "loop": timed(count, lambda: job.heartbeat(within=60), 0.001),
        "steps": timed(count, lambda: next(loop), 0.001),
        "request": timed(count, lambda: _channel.request("critical", action="leave", section="none")),
        "section": timed(count, section),
        "import": [imported() for _ in range(max(count // 50, 3))],
    }
    print(json.dumps(samples), flush=True)


if __name__ == "__main__":
    main()
