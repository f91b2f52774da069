"""How much memory is free under the tightest limit, how much of it staging may take by itself, and OOM kills."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def automatic_limit(available: int) -> int:
    """Return the bytes staging may take when the user did not say: half of what is free."""
    return available // 2


@dataclass(frozen=True, slots=True)
class Group:
    """A memory cgroup this process is in.

    Args:
        folder: its own.
        top: the folder of the highest one that is to be seen here: in a container that is the container's.
        v2: of version 2.
    """

    folder: str
    top: str
    v2: bool

    def upwards(self) -> Iterator[str]:
        """Yield its folder and all above it, whether they can be seen here or not."""
        folder = self.folder
        while folder != self.top:
            yield folder
            folder = folder.rsplit("/", 1)[0]
        yield self.top

    def free(self, folder: str) -> int | None:
        """Return the bytes left under the limit of one of its folders, None if that sets none.

        What the kernel would drop of files' pages counts as free: a container that has read much has used its limit up.
        """
        names = (
            ("memory.max", "memory.current")
            if self.v2
            else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        with contextlib.suppress(OSError, ValueError):
            limit, usage = (int(_read(f"{folder}/{name}")) for name in names)
            if limit >= 1 << 60:
                return None
            dropped = _field(f"{folder}/memory.stat", "inactive_file" if self.v2 else "total_inactive_file")
            return max(limit - usage + min(dropped or 0, usage), 0)
        return None


def available_memory() -> int:
    """Return the bytes free under the tightest limit: the machine's, or a memory cgroup's this process is in."""
    tightest = _meminfo_available()
    for group in own_groups():
        for folder in group.upwards():
            free = group.free(folder)
            if free is not None:
                tightest = min(tightest, free)
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
    count = _oom_kills(own_groups())
    return (_field("/proc/vmstat", "oom_kill") or 0) if count is None else count


def oom_kills_beside(pid: int) -> int:
    """Return how many processes were so killed in another container's memory cgroup, as that container sees it.

    Args:
        pid: any process of that container, as this one counts; 0 is returned if it is gone or sees no such cgroup.
    """
    try:
        groups = groups_of(_read(f"/proc/{pid}/cgroup"), _read(f"/proc/{pid}/mountinfo"))
    except OSError:
        return 0
    root = f"/proc/{pid}/root"
    return _oom_kills([Group(root + group.folder, root + group.top, group.v2) for group in groups]) or 0


def _oom_kills(groups: Iterable[Group]) -> int | None:
    for group in groups:
        for folder in group.upwards():  # the first that can be seen
            count = _field(f"{folder}/{'memory.events' if group.v2 else 'memory.oom_control'}", "oom_kill")
            if count is not None:
                return count
    return None


def own_groups() -> list[Group]:
    """Return the memory cgroups this process is in, as they can be seen here."""
    with contextlib.suppress(OSError):
        return groups_of(_read("/proc/self/cgroup"), _read("/proc/self/mountinfo"))
    return []


def groups_of(cgroup: str, mountinfo: str) -> list[Group]:
    """Return the memory cgroups that a process's ``cgroup`` and ``mountinfo`` tell of.

    What a mount shows need not begin at the root: a container sees its own cgroup alone, with a cgroup namespace or by
    a mount that begins there.
    """
    found = []
    for line in cgroup.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        v2 = not controllers
        for root, top in _mounts(mountinfo, v2=v2)[-1:]:
            below = root in {path, "/"} or path.startswith(f"{root}/")
            inside = path.removeprefix(root.rstrip("/")).rstrip("/") if below and ".." not in path else ""
            found.append(Group(top + inside, top, v2))
    return found


def _mounts(mountinfo: str, *, v2: bool) -> list[tuple[str, str]]:
    """Return (what is its root, where) of each mount of memory cgroups."""
    found = []
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        if kind == ("cgroup2" if v2 else "cgroup") and (v2 or "memory" in options.split(",")):
            words = fields.split(" ")
            found.append((words[3], words[4]))
    return found


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - one small read
        return file.read()


def _field(path: str, name: str) -> int | None:
    """Return the number behind a name in a file of such lines; None if there is none."""
    with contextlib.suppress(OSError, ValueError):
        for line in _read(path).splitlines():
            if line.startswith(f"{name} "):
                return int(line.split()[1])
    return None
