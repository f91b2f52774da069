"""What a container hides and protects in its /proc, so that it can be put again on a capsule's fresh one.

A container's runtime covers parts of /proc (``/proc/kcore`` by /dev/null, ``/proc/acpi`` by an empty tmpfs, perhaps
``/proc/meminfo`` by lxcfs) and makes others read-only (``/proc/sys``). A capsule mounts a /proc of its own, on which
nothing of that is: a job that could not write a sysctl before could then. Outside containers there is nothing to put.

Read from a mountinfo; `CapsuleSpec.masks` takes what is found.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
PROC = "/proc"
LAST_PID = "/proc/sys/kernel/ns_last_pid"
"""Stays writable: the kernel asks whoever writes it for a capability, and a restore must be able to."""

_MACHINES_OWN = frozenset({"autofs", "binfmt_misc", "nfsd"})
"""Filesystems that systems without any container mount there: a capsule has never had them."""
_FLAGS = {"nosuid": MS_NOSUID, "nodev": MS_NODEV, "noexec": MS_NOEXEC}


@dataclass(frozen=True, slots=True)
class Mask:
    """One mount on a part of /proc.

    Args:
        path: where.
        read_only: it is the same part of /proc, read-only; if not: something else, which is put there as it is.
        flags: of a read-only one: its other flags, as mount(2) counts them.
    """

    path: str
    read_only: bool
    flags: int = 0


def of(pid: int | str = "self") -> tuple[Mask, ...]:
    """Return the masks in the mount namespace of a process, in the order in which they can be put.

    Raises:
        OSError: the process is gone.
    """
    return parse(Path(f"/proc/{pid}/mountinfo").read_bytes())


def parse(mountinfo: bytes) -> tuple[Mask, ...]:
    """Return the masks that a mountinfo tells of; the last mount on a path is the one that counts."""
    found: dict[str, Mask | None] = {}
    for line in mountinfo.decode(errors="surrogateescape").splitlines():
        fields, _, rest = line.partition(" - ")
        words = fields.split(" ")
        path, options, kind = _plain(words[4]), words[5].split(","), rest.split(" ")[0]
        if PurePosixPath(PROC) not in PurePosixPath(path).parents:
            continue
        found.pop(path, None)
        found[path] = _mask(path, kind, options)
    return tuple(mask for mask in found.values() if mask is not None)


def _mask(path: str, kind: str, options: list[str]) -> Mask | None:
    if kind in _MACHINES_OWN:
        return None
    if kind != "proc":
        return Mask(path, read_only=False)
    if "ro" not in options:
        return None
    return Mask(path, read_only=True, flags=sum(_FLAGS.get(option, 0) for option in options))


def _plain(path: str) -> str:
    """Undo the kernel's escapes."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def before(masks: tuple[Mask, ...]) -> list[tuple[object, ...]]:
    """Return the steps before a fresh /proc is mounted: what must be taken from the old one."""
    return [("hold", mask.path) for mask in masks if not mask.read_only]


def after(masks: tuple[Mask, ...]) -> list[tuple[object, ...]]:
    """Return the steps after a fresh /proc was mounted."""
    steps: list[tuple[object, ...]] = []
    for mask in masks:
        if not mask.read_only:
            steps.append(("put", mask.path))
            continue
        steps.append(("mount", mask.path, mask.path, "", MS_BIND, ""))
        steps.append(("mount", "", mask.path, "", MS_REMOUNT | MS_BIND | MS_RDONLY | mask.flags, ""))
    covering = [m for m in masks if m.read_only and PurePosixPath(m.path) in PurePosixPath(LAST_PID).parents]
    if covering:
        steps.append(("mount", LAST_PID, LAST_PID, "", MS_BIND, ""))
        steps.append(("mount", "", LAST_PID, "", MS_REMOUNT | MS_BIND | covering[-1].flags, ""))
    return steps
