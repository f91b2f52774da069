"""``doctor --pid``: whether a running process could be checkpointed, from /proc alone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ckptrun.core.health import Check
from ckptrun.criu.remedies.processes import Process, numbers_of, processes, socket_inode, tree_of
from ckptrun.criu.remedies.procfacts import findings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckptrun.criu.remedies.model import Finding

_HARMLESS = frozenset({"cuda-libraries"})
"""Entries that look like an obstacle and are none."""


def process_checks(host_pid: int) -> list[Check]:
    """Examine a process and all below it; a process in a capsule stands for everything in there.

    Returns:
        A check for every process and kind of obstacle, with descriptor or path and remedy; none if there is no process.
    """
    tree = processes(tree_of(host_pid))
    if not tree:
        return []
    found = findings([process.host_pid for process in tree])
    checks = [Check("processes", ok=True, detail=_looked_at(tree))]
    kinds: dict[tuple[str, int], list[Finding]] = {}
    for finding in found:
        kinds.setdefault((finding.remedy.name, finding.host_pid), []).append(finding)
    checks += [_check(alike[0], len(alike) - 1) for alike in kinds.values()]
    return checks + list(_limits(tree))


def _looked_at(tree: Sequence[Process]) -> str:
    root = tree[0]
    count = sum(1 for process in tree for _ in process.descriptors())
    below = f" and {len(tree) - 1} below it" if len(tree) > 1 else ""
    return f"process {root.host_pid} ({root.program}){below} with {count} descriptors"


def _check(finding: Finding, more: int) -> Check:
    name = finding.remedy.name
    detail = f"{finding.cause}, and {more} more of that kind" if more else finding.cause
    return Check(name, ok=name in _HARMLESS, detail=detail, remedy=finding.remedy.remedy)


def _limits(tree: Sequence[Process]) -> Iterator[Check]:
    """Yield what could not be seen, and what will be another under ckptrun than it is now."""
    closed = [process for process in tree if not os.access(f"{process.folder}/fd", os.R_OK | os.X_OK)]
    if closed:
        others = f" and {len(closed) - 1} more" if len(closed) > 1 else ""
        first = f"process {closed[0].host_pid} ({closed[0].program})"
        detail = f"the descriptors of {first}{others} may not be read"
        yield Check("access", ok=False, detail=detail, remedy="run ckptrun doctor --pid as root")
    root = tree[0]
    if root.link("ns/net") not in {"", os.readlink("/proc/self/ns/net")} and _has_sockets(tree):  # noqa: PTH115
        detail = (
            "the processes live in another network namespace: peers of their Unix sockets are not looked at"
        )
        yield Check("unix-peers", ok=True, detail=detail, remedy="run ckptrun doctor --pid in that namespace")
    if len(numbers_of(root.host_pid)) == len(numbers_of(os.getpid())):
        yield Check(
            "capsule",
            ok=True,
            detail="it does not run under ckptrun, which would give it a terminal, a session, standard streams "
            "and a /dev/shm of its own, and keep io_uring from it",
        )


def _has_sockets(tree: Sequence[Process]) -> bool:
    return any(socket_inode(link) for process in tree for _, link in process.descriptors())
