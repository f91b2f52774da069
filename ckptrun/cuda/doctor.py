"""What the doctor says of GPUs: what the driver found supports, and what a process's CUDA state means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptrun.core.health import Check
from ckptrun.cuda import finding, gpus
from ckptrun.cuda.choosing import choose
from ckptrun.cuda.driver import CudaError
from ckptrun.cuda.finding import Kind, kind_of
from ckptrun.cuda.known import (
    IPC_DRIVER,
    OLDEST_DRIVER,
    REMAPPING_DRIVER,
    TABLE,
    UNSEEN,
    Scene,
    refusals,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NAME = "gpu"
SAVED = "cuda"


def machine_checks(folder: Path = gpus.FOLDER) -> list[Check]:
    """Return what can be done with CUDA state here: the support matrix of the driver found, if there is one."""
    machine = gpus.this_machine(folder)
    if not machine.driver:
        return [
            Check(NAME, ok=True, detail="no NVIDIA driver: jobs here use no GPU, and nothing is lost by that")
        ]
    found = ", ".join(f"{gpu.model} ({gpu.uuid})" for gpu in machine.gpus) or "no GPU"
    checks = [_driver_check(machine, found), _way_check()]
    return [
        *checks,
        *(Check(f"{NAME}: {what}", ok=True, detail=detail) for what, detail in matrix(machine.version)),
    ]


def matrix(version: tuple[int, ...]) -> list[tuple[str, str]]:
    """Return what a driver supports, by NVIDIA's documents and by what users reported; a pair for each line.

    Args:
        version: the driver's.
    """
    can = "yes" if version >= OLDEST_DRIVER else "no: from 570 on"
    lines = [
        ("one or more processes, no NCCL", can),
        ("NVML in a process that computes", can),
        (
            "restore on other GPUs of the same kind",
            "yes" if version >= REMAPPING_DRIVER else "no: from 580 on",
        ),
        ("memory shared by CUDA IPC", "yes" if version >= IPC_DRIVER else "no: from 610 on"),
    ]
    lines += [
        (known.name, f"refused: {known.happens}; {known.remedy}") for known in TABLE if known.drivers(version)
    ]
    unseen = [(name, what) for name, what in UNSEEN if name != "cuda-ipc" or version < IPC_DRIVER]
    lines += [(name, f"not seen from outside, the driver refuses it: {what}") for name, what in unseen]
    return lines


def process_checks(host_pids: Sequence[int], devices: str = finding.DEVICES) -> list[Check]:
    """Return what there is to say of the GPUs of a job's processes; none if it has to do with no GPU.

    Args:
        host_pids: PIDs here.
        devices: folder of the device files.
    """
    looks = finding.looks(host_pids, devices)
    kinds = {one: kind_of(one, looks) for one in looks}
    computing = [one for one, kind in kinds.items() if kind is Kind.COMPUTES]
    checks = [
        Check(
            SAVED,
            ok=True,
            detail=f"{one} computes on a GPU; the hook cuda saves that: {', '.join(sorted(one.devices))}",
        )
        for one in computing
    ]
    scene = Scene(gpus.this_machine().version, looks, computing)
    checks += [
        Check(f"{SAVED}: {one.known.name}", ok=False, detail=str(one), remedy=one.known.remedy)
        for one in refusals(scene)
    ]
    return checks


def _driver_check(machine: gpus.Gpus, found: str) -> Check:
    name = f"{NAME} driver"
    if machine.version < OLDEST_DRIVER:
        return Check(
            name,
            ok=False,
            detail=f"{machine.driver}: {found}; its CUDA state cannot be saved",
            remedy="install 570 or newer",
        )
    return Check(name, ok=True, detail=f"{machine.driver}: {found}")


def _way_check() -> Check:
    name = "cuda checkpoints"
    try:
        driver = choose()
    except CudaError as error:
        return Check(name, ok=False, detail=error.message, remedy=error.hint)
    driver.close()
    more = "" if driver.maps_devices else "; restores to the same GPUs only"
    return Check(name, ok=True, detail=f"by {driver.name}{more}")
