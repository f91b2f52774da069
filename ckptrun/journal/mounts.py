"""Which filesystems are mounted where, in a mount namespace.

Used by the capture (in the job's namespace) and by the rollback (in ours). What a preserved tree makes of mounts in
it: those of the checkpoint belong to it, those made later do not, and the kernel's own never.
"""

# Names are strings with surrogates here; Path would add nothing.
# ruff: noqa: PTH123

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptrun.journal.candidates import under
from ckptrun.journal.record import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptrun.journal.record import FileRecord

_KERNELS = frozenset(
    {
        *("autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs"),
        *("efivarfs", "fusectl", "mqueue", "nsfs", "proc", "pstore", "ramfs", "rpc_pipefs", "securityfs"),
        *("sysfs", "tracefs"),
    }
)
"""Filesystems that keep no files of a job's."""

_TIMELESS = frozenset({"tmpfs", "ramfs", "hugetlbfs", "devtmpfs"})
"""Filesystems where a store through a mapping may change no time: pages that were read first are mapped writable at
once, so that the store is not noticed. Only content proves a file unchanged."""

_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount: where it is, which folder of its filesystem it shows, its device's number, its kind, its right."""

    path: str
    shown: str
    device: str
    kind: str
    read_only: bool

    @property
    def kernels(self) -> bool:
        """Whether it is the kernel's own, as /proc, and holds no files."""
        return self.kind in _KERNELS

    @property
    def takes_files(self) -> bool:
        """Whether files can be written there."""
        return not self.kernels and not self.read_only


def mounts(root: str) -> list[Mount]:
    """Return the mounts of a mount namespace, as ``root`` reaches it.

    Raises:
        OSError: they cannot be read.
    """
    process = "/proc/self" if root == "/" else root.removesuffix("/root")
    found = []
    with open(f"{process}/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            left, _, right = line.partition(" - ")
            words, more = left.split(" "), right.split(" ")
            read_only = "ro" in words[5].split(",") or "ro" in more[2].strip().split(",")
            found.append(Mount(_plain(words[4]), _plain(words[3]), words[2], more[0], read_only))
    return found


def _plain(word: str) -> str:
    """Return a path of mountinfo without its octal escapes."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), word)


@dataclass(frozen=True, slots=True)
class Mounted:
    """The mounts of one namespace, for those who ask about paths.

    Args:
        points: where filesystems that keep files are mounted.
        kernels: the kernel's own filesystems: kind by mount point.
        timeless: devices on which times do not prove a file unchanged.
    """

    points: frozenset[str] = frozenset()
    kernels: dict[str, str] = field(default_factory=dict)
    timeless: frozenset[int] = frozenset()

    @classmethod
    def of(cls, root: str) -> Mounted:
        """Look; nothing is known where that is not allowed."""
        try:
            found = mounts(root)
        except OSError:
            return cls()
        kernels = {mount.path: mount.kind for mount in found if mount.kernels and mount.path != "/"}
        numbers = [mount.device.split(":") for mount in found if mount.kind in _TIMELESS]
        return cls(
            frozenset(mount.path for mount in found if mount.path not in kernels),
            kernels,
            frozenset(os.makedev(int(major), int(minor)) for major, minor in numbers),
        )

    def kernels_at(self, path: str) -> str:
        """Return the kind of the kernel's own filesystem that a path lies on; empty if it lies on another."""
        nearest = max((p for p in (*self.points, *self.kernels) if under(path, (p,))), key=len, default="")
        return self.kernels.get(nearest, "")

    def inside(self, folder: str) -> str:
        """Return a mount point that is a folder or lies in it; empty if there is none."""
        return min((p for p in (*self.points, *self.kernels) if under(p, (folder,))), default="")


def strangers(records: Sequence[FileRecord], now: Mounted, notes: list[str]) -> set[str]:
    """Return the paths below which a rollback removes nothing from preserved trees.

    These are mounts made after the checkpoint, and folders under mounts that are not there any more: what they hold
    was never the job's. Each gets a sentence in `notes`.
    """
    tops = {record.tree for record in records if record.tree}
    then = {record.path for record in records if record.mount}
    found = set()
    for path in sorted(then - now.points):
        notes.append(
            f"{printable(path)} was a mount point at the checkpoint and is none here: what it held is brought back "
            "into the filesystem below; if it belongs elsewhere, stop the run, mount it and run the same command again"
        )
        found.add(path)
    for path in sorted(now.points - then):
        if any(under(path, (top,)) for top in tops):
            notes.append(
                f"{printable(path)} has been mounted since the checkpoint: what else it holds is left alone"
            )
            found.add(path)
    return found | now.kernels.keys()
