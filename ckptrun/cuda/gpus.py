"""Which GPUs and which driver a machine has, and how much of their memory each process uses.

From /proc/driver/nvidia, and from ``nvidia-smi`` for what is not there; both come with the driver. What neither
tells is not known, and said to be so.
"""

from __future__ import annotations

import contextlib
import re
import string
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

FOLDER = Path("/proc/driver/nvidia")
_SMI = "nvidia-smi"
_SMI_SECONDS = 10.0
_VERSION = re.compile(r"^NVRM version:.*?(\d+\.\d+(?:\.\d+)*)", re.MULTILINE)
_FIELD = re.compile(r"^(Model|GPU UUID|Device Minor):\s*(.*?)\s*$", re.MULTILINE)
_MIB = 1 << 20


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Args:
        uuid: such as ``GPU-8932f937-d72c-4106-c12f-20bd9faed9f6``.
        model: its name.
        device: its device file, such as ``nvidia0``; empty if that is not known.
    """

    uuid: str
    model: str
    device: str


@dataclass(frozen=True)
class Gpus:
    """The GPUs of a machine.

    Args:
        driver: version of the driver, such as ``570.86.10``; empty if there is none.
        gpus: those there are, by their place on the bus.
    """

    driver: str
    gpus: tuple[Gpu, ...]

    @property
    def version(self) -> tuple[int, ...]:
        """The driver's version as numbers; empty if there is none."""
        return tuple(int(part) for part in self.driver.split(".")) if self.driver else ()


def this_machine(folder: Path = FOLDER) -> Gpus:
    """Return this machine's GPUs.

    Args:
        folder: where the driver tells of itself.
    """
    version = _VERSION.search(_read(folder / "version"))
    if version is None and folder == FOLDER:  # some containers have the devices without it
        rows = [row for row in ask("--query-gpu=driver_version,uuid,name") if len(row) == 3]
        return Gpus(rows[0][0] if rows else "", tuple(Gpu(uuid, model, "") for _, uuid, model in rows))
    found = []
    with contextlib.suppress(OSError):
        for place in sorted((folder / "gpus").iterdir()):
            fields = dict(_FIELD.findall(_read(place / "information")))
            device = f"nvidia{fields.get('Device Minor', '?')}"
            uuid = fields.get("GPU UUID", "")
            if not uuid or "?" in uuid:  # a GPU that nobody uses, without persistence mode, sleeps
                uuid = _woken_up().get(_place(place.name), uuid)
            found.append(Gpu(uuid, fields.get("Model", ""), device))
    return Gpus(version[1] if version else "", tuple(found))


def _woken_up() -> dict[str, str]:
    """Return the UUIDs of the GPUs by their place on the bus, as ``nvidia-smi`` says, which wakes them up."""
    return {_place(row[0]): row[1] for row in ask("--query-gpu=pci.bus_id,uuid") if len(row) == 2}


def _place(name: str) -> str:
    """Return a place on the bus in one spelling: ``nvidia-smi`` has longer domains, and capitals."""
    domain, _, rest = name.lower().partition(":")
    return (
        f"{int(domain, 16):x}:{rest}"
        if rest and domain and all(c in string.hexdigits for c in domain)
        else name
    )


def memory_of(host_pids: Iterable[int]) -> dict[int, int]:
    """Return the bytes of GPU memory that processes use; one that is not named is not known."""
    wanted, used = set(host_pids), dict[int, int]()
    for pid, mebibytes in ask("--query-compute-apps=pid,used_memory"):
        if pid.isdigit() and mebibytes.isdigit() and int(pid) in wanted:
            used[int(pid)] = used.get(int(pid), 0) + int(mebibytes) * _MIB
    return used


def partitioned() -> bool | None:
    """Say whether a GPU is divided by MIG; None if that is not known."""
    modes = [row[0] for row in ask("--query-gpu=mig.mode.current")]
    return any(mode == "Enabled" for mode in modes) if modes else None


def ask(query: str) -> list[list[str]]:
    """Return the rows of a query to ``nvidia-smi``; none if it cannot be asked or does not answer in time."""
    command = [_SMI, query, "--format=csv,noheader,nounits"]
    try:
        text = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_SMI_SECONDS, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [[cell.strip() for cell in line.split(",")] for line in text.splitlines() if line.strip()]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
