"""Which processes have to do with CUDA, by what /proc says alone: no driver, no plugin, nothing is disturbed.

A process that computes on a GPU holds NVIDIA's device files open and has ``libcuda`` mapped. Many have one of the
two only: a program that imports a CUDA build of PyTorch on a machine without a GPU, a monitor that reads the GPU's
temperature, a child forked by a process that computes. Whether a process that has both really has a CUDA state is
for the driver to say.

The supervisor asks `in_use` before every checkpoint; the hook and the doctor ask `look`.
"""

from __future__ import annotations

import enum
import os
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DEVICES = "/dev"
"""Where NVIDIA's device files are."""

_DEVICE = re.compile(r"nvidia(?:ctl|-uvm|-uvm-tools|-modeset|\d+)$|nvidia-caps/nvidia-cap\d+$")
_LIBRARY = re.compile(r"/libcuda\.so(?:\.[\d.]+)?$")
_NVML = re.compile(r"/libnvidia-ml\.so(?:\.[\d.]+)?$")
_NCCL = re.compile(r"/libnccl\.so(?:\.[\d.]+)?$")
_NCCL_SHARED = re.compile(r"/dev/shm/nccl-\w+(?: \(deleted\))?$")  # noqa: S108 -- a name to look for
_NCCL_THREADS = ("pt_nccl", "NCCL")
_CUDA_THREADS = ("cuda",)
_PATH = re.compile(rb"^\S+ \S+ \S+ \S+ \S+ +(/[^\n]*)$", re.MULTILINE)
_STATUS = re.compile(rb"^(State|PPid|NSpid):\s*([^\n]+)$", re.MULTILINE)


class Kind(enum.Enum):
    """What a process has to do with CUDA, as far as /proc can tell."""

    NOTHING = "nothing"
    LIBRARY = "library"
    """It has loaded CUDA and uses no GPU: CRIU saves it like any other."""
    COMPUTES = "computes"
    """It has a GPU open, and CUDA loaded."""
    FORKED = "forked"
    """It looks like `COMPUTES`, but is a child of such a one and has none of CUDA's threads."""
    HOLDER = "holder"
    """It has a GPU open without CUDA."""


@dataclass(frozen=True)
class Look:
    """What /proc says of one process.

    Args:
        host_pid: its PID here.
        pid: its PID in the innermost namespace, which is the one that a restore gives back.
        program: its name.
        parent: its parent's PID here.
        devices: NVIDIA's device files that it holds or has mapped, without the folder.
        mapped: paths of all files that it has mapped.
        threads: names of its threads.
    """

    host_pid: int
    pid: int
    program: str
    parent: int
    devices: frozenset[str]
    mapped: frozenset[str]
    threads: tuple[str, ...]

    def __str__(self) -> str:
        return f"process {self.host_pid} ({self.program})"

    @cached_property
    def has_library(self) -> bool:
        """Whether CUDA's driver library is mapped."""
        return any(_LIBRARY.search(path) for path in self.mapped)

    @cached_property
    def has_nvml(self) -> bool:
        """Whether NVIDIA's monitoring library is mapped."""
        return any(_NVML.search(path) for path in self.mapped)

    @cached_property
    def speaks_nccl(self) -> bool:
        """Whether it has an NCCL communicator; that the library is mapped says little, for PyTorch always has it."""
        if not any(_NCCL.search(path) for path in self.mapped):
            return False
        shared = any(_NCCL_SHARED.search(path) for path in self.mapped)
        return shared or any(name.startswith(_NCCL_THREADS) for name in self.threads)

    @cached_property
    def has_cuda_threads(self) -> bool:
        """Whether CUDA has threads in it, which a fork leaves behind."""
        return any(name.startswith(_CUDA_THREADS) for name in self.threads)

    @cached_property
    def environment(self) -> dict[str, str]:
        """The environment that it was started with; empty if it may not be read."""
        return environment_of(self.host_pid)


def in_use(host_pids: Iterable[int], devices: str = DEVICES) -> bool:
    """Say whether a process of these has a GPU open: about 5 microseconds for each descriptor.

    Args:
        host_pids: PIDs here.
        devices: the folder of the device files.
    """
    return any(_open_devices(pid, devices, first=True) for pid in host_pids)


def look(host_pid: int, devices: str = DEVICES) -> Look | None:
    """Return what /proc says of a process; None if it is gone, a zombie, or may not be looked at."""
    status = dict(_STATUS.findall(_read(host_pid, "status")))
    if not status or status.get(b"State", b"Z")[:1] in b"ZX":
        return None
    mapped = frozenset(map(os.fsdecode, _PATH.findall(_read(host_pid, "maps"))))
    prefix = devices.rstrip("/") + "/"
    held = _open_devices(host_pid, devices)
    held |= {path[len(prefix) :] for path in mapped if path.startswith(prefix) and _DEVICE.search(path)}
    numbers = status.get(b"NSpid", str(host_pid).encode()).split()
    name = os.fsdecode(_read(host_pid, "comm")).rstrip("\n")
    threads = _threads(host_pid) if held else ()
    return Look(
        host_pid, int(numbers[-1]), name, int(status.get(b"PPid", b"0")), frozenset(held), mapped, threads
    )


def looks(host_pids: Iterable[int], devices: str = DEVICES) -> list[Look]:
    """Return what /proc says of those that live."""
    return [found for pid in host_pids if (found := look(pid, devices)) is not None]


def kind_of(one: Look, others: Sequence[Look]) -> Kind:
    """Return what a process has to do with CUDA.

    Args:
        one: it.
        others: those of the same job.
    """
    if not one.devices:
        return Kind.LIBRARY if one.has_library else Kind.NOTHING
    if not one.has_library:
        return Kind.HOLDER
    parent = next((other for other in others if other.host_pid == one.parent), None)
    if parent is not None and parent.devices and parent.has_cuda_threads and not one.has_cuda_threads:
        return Kind.FORKED
    return Kind.COMPUTES


def alive(host_pid: int) -> bool:
    """Say whether a process is there and no zombie."""
    status = dict(_STATUS.findall(_read(host_pid, "status")))
    return bool(status) and status.get(b"State", b"Z")[:1] not in b"ZX"


def environment_of(host_pid: int) -> dict[str, str]:
    """Return the environment that a process was started with; empty if it may not be read."""
    pairs = (entry.partition("=") for entry in os.fsdecode(_read(host_pid, "environ")).split("\0"))
    return {name: value for name, _, value in pairs if name}


def _open_devices(pid: int, devices: str, *, first: bool = False) -> set[str]:
    """Return the device files that a process holds; no more than one if that is enough."""
    folder, prefix, found = f"/proc/{pid}/fd", devices.rstrip("/") + "/", set[str]()
    try:
        numbers = os.listdir(folder)  # noqa: PTH208 -- hundreds of small calls
    except OSError:
        return found
    for number in numbers:
        try:
            link = os.readlink(f"{folder}/{number}")  # noqa: PTH115 -- as above
        except OSError:
            continue
        if link.startswith(prefix) and _DEVICE.match(link[len(prefix) :]):
            found.add(link[len(prefix) :])
            if first:
                break
    return found


def _threads(pid: int) -> tuple[str, ...]:
    try:
        numbers = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 -- as above
    except OSError:
        return ()
    return tuple(os.fsdecode(_read(pid, f"task/{number}/comm")).rstrip("\n") for number in numbers)


def _read(pid: int, name: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:  # noqa: PTH123 -- as above
            return file.read()
    except OSError:
        return b""
