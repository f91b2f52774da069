"""The hook ``cuda`` around a restore: the GPUs must be there before it, and compute again after it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ckptrun.cuda import finding, gpus
from ckptrun.cuda.calls import RUNNING, Call
from ckptrun.cuda.driver import CudaError
from ckptrun.cuda.known import REMAPPING_DRIVER
from ckptrun.cuda.operation import resume

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def pre_restore(call: Call) -> dict[str, Any]:
    """See that the checkpoint's GPUs, or others like them, are here, and choose them."""
    if not call.data.get("processes"):
        return {}
    machine = gpus.this_machine(call.machine)
    if not machine.driver:
        raise CudaError(
            "the checkpoint needs a GPU, and this machine has no NVIDIA driver",
            hint="restore on a machine with the same kind of GPU",
        )
    driver = call.driver()
    devices = device_map(call.data.get("gpus") or [], machine, remapping=driver.maps_devices)
    if not call.dry_run:
        driver.prepare((), more=len(call.data["processes"]))
    return {"data": {**call.data, "devices": devices}}


def device_map(
    recorded: Sequence[Mapping[str, Any]], machine: gpus.Gpus, *, remapping: bool
) -> dict[str, str]:
    """Return which GPU is to be used in place of each recorded one; empty if those that were used are here.

    A map names every GPU that the machine of the checkpoint had: the driver refuses one that leaves out what the job
    did not use, or could not even see for its CUDA_VISIBLE_DEVICES.

    Args:
        recorded: ``uuid`` and ``model`` of those of the checkpoint's machine, and whether it was ``used``.
        machine: the one to restore on.
        remapping: whether the way to the driver can do it.

    Raises:
        CudaError: there are too few of a model, or it cannot be done here.
    """
    here = {gpu.uuid: gpu for gpu in machine.gpus}
    used = [one for one in recorded if one.get("used", True)]
    if all(one["uuid"] in here for one in used):
        return {}
    free = [gpu for gpu in machine.gpus if gpu.uuid not in {one["uuid"] for one in recorded}]
    chosen: dict[str, str] = {}
    for one in (*used, *(one for one in recorded if one not in used)):
        alike = (gpu for gpu in free if gpu.model == one["model"] or one not in used)
        match = here.get(one["uuid"]) or next(alike, None)
        if match is None:
            names = ", ".join(sorted({gpu.model for gpu in machine.gpus})) or "none"
            raise CudaError(
                f"the checkpoint was taken on {len(recorded)} GPU(s), among them {one['model']}, and this machine "
                f"has {len(machine.gpus)} ({names})",
                hint="restore on a machine with the same kind and number of GPUs",
            )
        chosen[one["uuid"]] = match.uuid
        free = [gpu for gpu in free if gpu.uuid != match.uuid]
    if not remapping or machine.version < REMAPPING_DRIVER:
        raise CudaError(
            f"the checkpoint was taken on other GPUs of the same kind, and driver {machine.driver} here cannot move it",
            hint="use a driver of 580 or newer, and cuda-bindings 13 or a cuda-checkpoint with --device-map",
        )
    return chosen


def post_restore(call: Call) -> dict[str, Any]:
    """Have every process that computed compute again."""
    recorded = call.data.get("processes") or []
    if not recorded or not call.ok:
        return {"done": [RUNNING]}
    by_pid = {one.pid: one.host_pid for one in finding.looks(call.pids, call.options.devices)}
    if missing := [entry for entry in recorded if entry["pid"] not in by_pid]:
        names = ", ".join(f"{entry['pid']} ({entry['program']})" for entry in missing)
        raise CudaError(f"not there after the restore, though they were computing: {names}")
    pids = [by_pid[entry["pid"]] for entry in recorded]
    began = time.monotonic()
    driver = call.driver()
    driver.prepare(pids)
    stuck = resume(driver, pids, call.limits, call.clock, call.data.get("devices") or None)
    if stuck:
        raise CudaError("; ".join(one.why for one in stuck))
    if lost := [pid for pid in pids if not finding.alive(pid)]:
        raise CudaError(f"process {lost[0]} ended while its GPU memory was moved back")
    seconds = round(time.monotonic() - began, 3)
    event = {"event": "cuda-restored", "processes": len(pids), "seconds": seconds, "by": driver.name}
    return {"done": [RUNNING], "events": [event]}
