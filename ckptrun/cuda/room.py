"""Whether there is room for what is on the GPU: it moves into the memory of the very processes that use it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_UNLIMITED = 1 << 60
_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


def too_little(used: Mapping[int, int]) -> str:
    """Return why there is no room, as a sentence; empty if there is.

    Args:
        used: bytes of GPU memory of each process, by host PID.
    """
    need = sum(used.values())
    free = machine_free()
    if need > free:
        return f"the job's GPU memory is {_size(need)}, and the machine has {_size(free)} of memory free"
    groups: dict[Path, int] = {}
    for pid, size in used.items():
        for group in _groups(pid):
            groups[group] = groups.get(group, 0) + size
    for group, size in groups.items():
        left = _left(group)
        if left is not None and size > left:
            name = f"/{group.relative_to(_CGROUP)}"
            return f"the job's GPU memory is {_size(size)}, and its memory cgroup {name} has room for {_size(left)}"
    return ""


def machine_free() -> int:
    """Return the bytes of memory that can be had without swapping."""
    for line in _MEMINFO.read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _groups(pid: int) -> Iterator[Path]:
    """Yield the memory cgroups that a process counts in, from its own to the top, of either version."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="replace").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            top = _CGROUP / "memory" if controllers else _CGROUP
            group = top / path.lstrip("/")
            while group != top and ".." not in group.parts:
                yield group
                group = group.parent
            yield top


def _left(group: Path) -> int | None:
    """Return how many bytes fit into a cgroup; None if it has no limit. Page cache that can go counts as free."""
    for limit, usage in (
        ("memory.max", "memory.current"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):
            most = int((group / limit).read_text(encoding="ascii"))
            used = int((group / usage).read_text(encoding="ascii"))
            if most < _UNLIMITED:
                return max(0, most - used + _cache(group))
    return None


def _cache(group: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        pairs = (line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        return int(dict(pairs).get("inactive_file", 0))
    return 0


def _size(number: int) -> str:
    return f"{number / 1e9:.1f} GB"
