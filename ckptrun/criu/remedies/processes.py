"""What /proc says of the processes of a tree, in the order in which one asks: who they are and what they hold.

Reads only; nothing is stopped or touched. A process that ends meanwhile is passed over.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_NSPID = re.compile(rb"^NSpid:\s*([\d\t ]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Process:
    """One process: its number here, in the job, and its name."""

    host_pid: int
    pid: int
    program: str

    @property
    def folder(self) -> str:
        """Its folder in /proc."""
        return f"/proc/{self.host_pid}"

    def read(self, name: str) -> str:
        """Return a file of its folder; empty if it cannot be read."""
        try:
            with open(f"{self.folder}/{name}", "rb") as file:  # noqa: PTH123 -- hundreds of small reads
                return os.fsdecode(file.read())
        except OSError:
            return ""

    def link(self, name: str) -> str:
        """Return where a link of its folder leads; empty if it cannot be read."""
        try:
            return os.readlink(f"{self.folder}/{name}")  # noqa: PTH115 -- as above
        except OSError:
            return ""

    def descriptors(self) -> Iterator[tuple[int, str]]:
        """Yield the number of every descriptor and what it is; none if that is not permitted."""
        with contextlib.suppress(OSError):
            for name in os.listdir(f"{self.folder}/fd"):  # noqa: PTH208 -- as above
                if link := self.link(f"fd/{name}"):
                    yield int(name), link


def numbers_of(host_pid: int) -> list[int]:
    """Return a process's PIDs from this namespace to its innermost one; empty if it is gone."""
    try:
        with open(f"/proc/{host_pid}/status", "rb") as file:  # noqa: PTH123 -- as above
            match = _NSPID.search(file.read())
    except OSError:
        return []
    return [int(word) for word in match[1].split()] if match else [host_pid]


def process_of(host_pid: int, root: int) -> Process | None:
    """Return a process by its number here; None if it is gone. The job counts as `root`, its first process, does."""
    numbers = numbers_of(host_pid)
    if not numbers:
        return None
    pid = numbers[min(len(numbers_of(root)) or len(numbers), len(numbers)) - 1]
    return Process(host_pid, pid, Process(host_pid, pid, "").read("comm").rstrip("\n"))


def processes(host_pids: Sequence[int]) -> list[Process]:
    """Return those that live; the first is the root."""
    return [process for pid in host_pids if (process := process_of(pid, host_pids[0])) is not None]


def tree_of(host_pid: int) -> list[int]:
    """Return a process and all below it; one that lives in a capsule stands for everything in there."""
    root = host_pid
    here = len(numbers_of(os.getpid()))
    with contextlib.suppress(psutil.Error):
        while len(numbers := numbers_of(root)) > here:
            parent = psutil.Process(root).ppid()
            if len(parents := numbers_of(parent)) != len(numbers) or parents[-1] == 1:
                break
            root = parent
        return [root, *(child.pid for child in psutil.Process(root).children(recursive=True))]
    return [host_pid]


def socket_inode(link: str) -> int:
    """Return the inode of a descriptor that is a socket; 0 if it is none."""
    return int(link[8:-1]) if link.startswith("socket:[") else 0


def is_device(path: str) -> bool:
    """Say whether a link of /proc leads to a character or block device."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 -- as above
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
