"""Reads process trees from /proc, in PIDs as this process sees them; what goes meanwhile is left out."""

from __future__ import annotations

import contextlib
import re
import signal
from pathlib import Path

_PF_EXITING = 0x4
_SYS_ADMIN = 21
_TRIES = 3
_SIGKILL = 1 << (signal.SIGKILL - 1)


def descendants(pid: int) -> list[int]:
    """Return every process below `pid`, parents before children."""
    found, at = [pid], 0
    while at < len(found):
        found += children(found[at])
        at += 1
    return found[1:]


def children(pid: int) -> list[int]:
    """Return a process's children; the kernel keeps the lists, so this is quick on a crowded machine too."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (task / "children").read_bytes().split())
    return found


def is_below(pid: int, top: int) -> bool:
    """Tell whether a process, or a zombie that is left of it, is somewhere below another one."""
    for _ in range(_TRIES):  # a parent may end on the way: its children are another's then
        below = _climbs(pid, top)
        if below is not None:
            return below
    return False


def _climbs(pid: int, top: int) -> bool | None:
    """Follow the parents of `pid` up to `top`; None if one has gone."""
    while pid > 1:
        if pid == top:
            return True
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:
            return None
        pid = int(stat[stat.rfind(b")") + 1 :].split()[1])
    return False


def pid_inside(host_pid: int) -> int | None:
    """Return the innermost PID of a process, or None if it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{host_pid}/status").read_bytes().splitlines():
            if line.startswith(b"NSpid:"):
                return int(line.split()[-1])
    return None


def security_label() -> str:
    """Return the profile of AppArmor's or the context of SELinux's that this process is held by; empty if none is."""
    try:
        return Path("/proc/self/attr/current").read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def may_mount() -> bool:
    """Tell whether this process has what mounts need as far as capabilities and seccomp go."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    found = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return bool(int(found["CapEff"], 16) >> _SYS_ADMIN & 1) and found["Seccomp"].strip() == "0"


def is_over(host_pid: int) -> bool:
    """Tell whether a process has ended or is about to: every thread of it is gone, leaving, or killed."""
    threads: list[Path] = []
    with contextlib.suppress(OSError):
        threads += Path(f"/proc/{host_pid}/task").iterdir()
    return all(map(_is_leaving, threads))


def _is_leaving(thread: Path) -> bool:
    try:
        state, *numbers = (thread / "stat").read_text(errors="replace").rpartition(")")[2].split()
        pending = re.findall(
            r"^S(?:ig|hd)Pnd:\s*(\w+)", (thread / "status").read_text(errors="replace"), re.MULTILINE
        )
    except OSError:
        return True
    return state in "ZX" or bool(int(numbers[5]) & _PF_EXITING) or any(int(p, 16) & _SIGKILL for p in pending)


def mount_namespace(pid: int) -> int:
    """Return the number of a process's mount namespace. Raises OSError."""
    return Path(f"/proc/{pid}/ns/mnt").stat().st_ino


def in_mount_namespace(number: int) -> list[int]:
    """Return the PIDs of every process in a mount namespace, of those this process may look at."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and mount_namespace(int(entry.name)) == number:
                found.append(int(entry.name))
    return found
