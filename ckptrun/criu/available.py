"""How much memory is free under the tightest limit, and how much of it staging may take by itself."""

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


def _cgroup_files() -> Iterator[tuple[str, str]]:
    with open("/proc/self/cgroup", encoding="ascii", errors="replace") as file:  # noqa: PTH123 - one small read
        lines = file.read().splitlines()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        v2 = controllers == ""
        if not v2 and "memory" not in controllers.split(","):
            continue
        base = "/sys/fs/cgroup" if v2 else "/sys/fs/cgroup/memory"
        names = ("memory.max", "memory.current") if v2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        while True:
            folder = base + path.rstrip("/")
            yield os.path.join(folder, names[0]), os.path.join(folder, names[1])  # noqa: PTH118 - strings in, strings out
            if path in ("/", ""):
                break
            path = path.rsplit("/", 1)[0]
