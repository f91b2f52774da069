"""What the figures were measured on: the machine's facts, who else is busy on it, and how fast it copies memory."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ckptrun import __version__
from ckptrun.criu import provision
from ckptrun.criu.program import show_version
from ckptrun.errors import CkptrunError

PROBE_SECONDS = 1.0
BUSY_SHARE = 0.15
"""Cores that others may keep busy, of all there are, before figures are called unreliable."""
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Load:
    """How busy the machine was while nothing of ours ran.

    Args:
        average: the load average of one minute; holds what benchmarks did just before.
        others: cores that others kept busy, and the hypervisor took, over `PROBE_SECONDS`.
    """

    average: float
    others: float

    @property
    def disturbing(self) -> bool:
        """Whether figures taken now mean little."""
        return self.others > BUSY_SHARE * cores()


def load() -> Load:
    """Look at the load while this process sleeps."""
    before, began = _busy_seconds(), time.monotonic()
    time.sleep(PROBE_SECONDS)
    others = (_busy_seconds() - before) / (time.monotonic() - began)
    return Load(os.getloadavg()[0], max(others, 0.0))


def _busy_seconds() -> float:
    """Return the seconds all cores were not idle, the hypervisor's share included."""
    user, nice, system, _, _, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / _TICKS


def cores() -> int:
    return len(os.sched_getaffinity(0))


def facts() -> dict[str, Any]:
    """Return what a reader needs in order to judge the figures; nothing that names the machine."""
    try:
        criu = show_version(provision.find().version)
    except CkptrunError as error:
        criu = str(error)
    return {
        "cpu": _field("/proc/cpuinfo", "model name"),
        "cores": cores(),
        "virtual": "hypervisor" in _field("/proc/cpuinfo", "flags").split(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release().split("-")[0],
        "huge_pages": _chosen(Path("/sys/kernel/mm/transparent_hugepage/enabled")),
        "python": platform.python_version(),
        "criu": criu,
        "ckptrun": __version__,
        "commit": _commit(),
        "root": os.geteuid() == 0,
    }


def memmove_seconds(size: int, times: int = 3) -> float:
    """Return the median time of copying `size` bytes between two warm buffers of this process."""
    source, target = _buffer(0, size), _buffer(1, size)
    np.copyto(target, source)  # what follows measures warm memory
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        np.copyto(target, source)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


_buffers: dict[int, np.ndarray] = {}


def _buffer(which: int, size: int) -> np.ndarray:
    """Return one of two buffers, kept between calls: fresh memory is another case."""
    if which not in _buffers or len(_buffers[which]) != size:
        _buffers[which] = np.full(size, which + 1, dtype=np.uint8)
    return _buffers[which]


def free_buffers() -> None:
    _buffers.clear()


def available_bytes() -> int:
    return int(_field("/proc/meminfo", "MemAvailable").split()[0]) * 1024


def _field(path: str, name: str) -> str:
    with Path(path).open(encoding="utf-8", errors="replace") as file:
        return next((line.split(":", 1)[1].strip() for line in file if line.startswith(name)), "")


def _chosen(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").partition("[")[2].partition("]")[0]
    except OSError:
        return ""


def _commit() -> str:
    here = Path(__file__).parent
    git = ["git", "-C", str(here)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        )
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit.stdout.strip() + (" and changes" if changed.stdout.strip() else "")
