"""Whether a lineage may be taken from who holds it. Called by `lineage`.

A holder that is dead on this very boot is known to be, by its PID or by a lock that it had; of any other only its HEAD
tells: a live writer changes it every few seconds, so one that stands still for a whole lease period is taken over. No
clock of another machine is trusted, and a writer that was only slow finds out by the version of HEAD at its next write.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ckptrun.errors import HeldError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from ckptrun.store.api import Head, Owner

LEASE_SECONDS = 15.0
POLL_SECONDS = 1.0


def is_dead(holder: Owner, me: Owner, gone: Collection[str] = ()) -> bool:
    """Say whether ``holder`` is known to be gone: it ran on this boot, where this process can see it, and does not.

    Args:
        holder: who has the lineage.
        me: this process.
        gone: sessions of this boot that are known to have ended.
    """
    if holder.boot_id == me.boot_id and holder.session in gone:
        return True
    if (holder.boot_id, holder.pid_namespace) != (me.boot_id, me.pid_namespace):
        return False
    return start_time(holder.pid) != holder.start_time


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None if there is none, or only its remains."""
    try:
        fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def stands_still(
    version: str, read_version: Callable[[], str | None], wait: Callable[[float], object]
) -> bool:
    """Watch HEAD for one lease period; say whether it kept its version. Each wait is in seconds."""
    for _ in range(round(LEASE_SECONDS / POLL_SECONDS)):
        wait(POLL_SECONDS)
        if read_version() != version:
            return False
    return True


def held(lineage: str, url: str, head: Head) -> HeldError:
    """Return the refusal, naming who holds the lineage."""
    assert head.owner is not None
    return HeldError(
        f"lineage {lineage!r} in {url} is held by process {head.owner.pid} on {head.owner.host} (epoch {head.epoch})",
        hint="stop that run, choose another --name, or pass --take-over",
    )
