"""How much memory is free under the tightest limit, how much of it staging may take by itself, and OOM kills."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def automatic_limit(available: int) -> int:
    """Return the bytes staging may take when the user did not say: half of what is free."""
    return available // 2


def available_memory() -> int:
    """Return the bytes free under the tightest limit: the machine's, or a memory cgroup's this process is in."""
    tightest = _meminfo_available()
    for limit_path, usage_path in _cgroup_files():
        with contextlib.suppress(OSError, ValueError):
            limit = int(open(limit_path, encoding="ascii").read())  # noqa: SIM115, PTH123 - one small read
            usage = int(open(usage_path, encoding="ascii").read())  # noqa: SIM115, PTH123 - one small read
            if limit < 1 << 60:
                tightest = min(tightest, max(limit - usage, 0))
    return tightest


def _meminfo_available() -> int:
    with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123 - one small read
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 0


def oom_kills() -> int:
    """Return how many processes of this process's memory cgroup the kernel has killed for want of memory.

    Where there is no such cgroup, how many of this machine's.
    """
    for folder, v2 in _own_groups():
        count = _oom_count(f"{folder}/{'memory.events' if v2 else 'memory.oom_control'}")
        if count is not None:
            return count
    return _oom_count("/proc/vmstat") or 0


def _oom_count(path: str) -> int | None:
    with contextlib.suppress(OSError), open(path, encoding="ascii") as file:  # noqa: PTH123 - one small read
        for line in file:
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return None


def _own_groups() -> Iterator[tuple[str, bool]]:
    """Yield the folder of each memory cgroup this process is in, and whether that is of version 2."""
    with open("/proc/self/cgroup", encoding="ascii", errors="replace") as file:  # noqa: PTH123 - one small read
        lines = file.read().splitlines()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers or "memory" in controllers.split(","):
            base = "/sys/fs/cgroup/memory" if controllers else "/sys/fs/cgroup"
            yield base + path.rstrip("/"), not controllers


def _cgroup_files() -> Iterator[tuple[str, str]]:
    for own, v2 in _own_groups():
        names = ("memory.max", "memory.current") if v2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        top = "/sys/fs/cgroup" if v2 else "/sys/fs/cgroup/memory"
        folder = own
        while True:
            yield os.path.join(folder, names[0]), os.path.join(folder, names[1])  # noqa: PTH118 - strings in, strings out
            if folder == top:
                break
            folder = folder.rsplit("/", 1)[0]
