"""Which CPUs the job's threads may run on: CRIU does not keep it, so it is noted at the freeze and put back.

Only threads that differ from the job root are noted: the root has what ckptrun was started with, wherever that is.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_NSPID = re.compile(rb"^NSpid:.*?(\d+)$", re.MULTILINE)


def noted(host_pids: Sequence[int]) -> dict[str, list[int]]:
    """Return the CPUs of each thread that differs from the root, the first process, by its PID inside the capsule."""
    found = {}
    with contextlib.suppress(OSError):
        usual = os.sched_getaffinity(host_pids[0])
        for thread in _threads(host_pids):
            with contextlib.suppress(OSError):
                cpus = os.sched_getaffinity(thread)
                if cpus != usual and (inside := _inside(thread)):
                    found[str(inside)] = sorted(cpus)
    return found


def put_back(host_pids: Sequence[int], cpus: Mapping[str, Sequence[int]]) -> None:
    """Give the threads their CPUs again, as far as this machine has them."""
    if not cpus:
        return
    for thread in _threads(host_pids):
        with contextlib.suppress(OSError):
            wanted = cpus.get(str(_inside(thread)), ())
            if here := set(wanted) & os.sched_getaffinity(host_pids[0]):
                os.sched_setaffinity(thread, here)


def _threads(host_pids: Sequence[int]) -> Iterator[int]:
    for pid in host_pids:
        with contextlib.suppress(OSError):
            yield from [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]


def _inside(thread: int) -> int:
    match = _NSPID.search(Path(f"/proc/{thread}/status").read_bytes())
    return int(match[1]) if match else 0
