"""What this process may do, as the kernel says: rights, capabilities, filters, labels; and what of it jobs need.

Called wherever a run, a sidecar or ``ckptrun doctor`` must know whether, and how, CRIU can be run here.
"""

from __future__ import annotations

import enum
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

_NET_ADMIN = 12  # capability.h
ESSENTIAL = {"SETPCAP": 8, "SYS_CHROOT": 18, "SYS_ADMIN": 21, "SYS_TIME": 25}
"""Without these, root makes no capsule, or dumps what it cannot restore, whatever the job; capability.h's numbers."""
NEEDED = {"DAC_OVERRIDE": 1, "KILL": 5, "SETGID": 6, "SETUID": 7, "SYS_PTRACE": 19, **ESSENTIAL}
"""What dump and restore of another user's job need, found by taking one away at a time."""


class Rights(enum.Enum):
    """What this process may do, and so how CRIU is tried and run."""

    FULL = "root"
    NO_NET_ADMIN = "root without NET_ADMIN"  # the usual container: connections cannot be locked or rebuilt
    USER = "an ordinary user"  # in a user namespace


def rights() -> Rights:
    """Return this process's rights."""
    if not is_root():
        return Rights.USER
    return Rights.FULL if effective_capabilities() >> _NET_ADMIN & 1 else Rights.NO_NET_ADMIN


def is_root() -> bool:
    """Say whether namespaces can be made without a user namespace around them."""
    return os.geteuid() == 0


def effective_capabilities() -> int:
    """Return this process's effective capabilities as the kernel's bit mask."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    match = re.search(r"^CapEff:\s*(\w+)", status, re.MULTILINE)
    return int(match[1], 16) if match else 0


def missing_capabilities(effective: int, needed: Collection[str] = NEEDED) -> list[str]:
    """Return which of the capabilities that are needed a mask of effective ones lacks."""
    return [name for name, number in NEEDED.items() if name in needed and not effective >> number & 1]


def has_seccomp_filter() -> bool:
    """Say whether a filter is on this process: it and CRIU may not suspend that of a job."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    match = re.search(r"^Seccomp:\s*(\d+)", status, re.MULTILINE)
    return match is not None and match[1] != "0"


def security_label() -> str:
    """Return the profile of AppArmor's or the context of SELinux's that this process is held by; empty if none is."""
    try:
        return Path("/proc/self/attr/current").read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""
