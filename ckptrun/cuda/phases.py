"""What the hook ``cuda`` does in each phase: reads a context, returns a result (docs/design/hooks.md).

``hooks/cuda/hook.py`` calls `run` and nothing else. Nothing is remembered between two phases but what the contract
carries: a hook that is killed half-way is put right by its post-checkpoint, which asks every process for its state.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptrun.cuda import finding, gpus, room
from ckptrun.cuda.choosing import AUTO, choose
from ckptrun.cuda.driver import NOT_READY, CudaError, CudaTimeoutError, State
from ckptrun.cuda.known import REMAPPING_DRIVER, Scene, refusals
from ckptrun.cuda.operation import Clock, Limits, SuspendError, resume, settle, suspend

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptrun.cuda.driver import Driver
    from ckptrun.cuda.finding import Look
    from ckptrun.cuda.operation import Stuck

SUSPENDED, RUNNING = "suspended", "running"
"""What ``done`` names: the post-conditions of pre-checkpoint, and of the two phases that close."""

_RETRY_SECONDS = 15.0
_MARGIN_SECONDS = 3.0
"""Of the hook's time, what is kept for starting and ending it."""


@dataclass(frozen=True)
class Options:
    """The hook's own options; see ``hooks/cuda/hook.json``.

    Args:
        lock: seconds for submitted work to end.
        move: seconds for one process's memory to move, each way.
        stuck: ``kill`` or ``leave``: what becomes of a process that cannot be led back to running.
        allow: names of entries of `ckptrun.cuda.known` that do not count.
        driver: ``auto``, ``bindings`` or ``program``.
        program: path of ``cuda-checkpoint``; empty for the one on PATH.
        devices: folder of the device files.
        information: folder where the driver tells of itself.
    """

    lock: float = 10.0
    move: float = 120.0
    stuck: str = "kill"
    allow: tuple[str, ...] = ()
    driver: str = AUTO
    program: str = ""
    devices: str = finding.DEVICES
    information: str = str(gpus.FOLDER)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Options:
        """Read them from a context."""
        known = {name: value for name, value in values.items() if name in cls.__dataclass_fields__}
        if isinstance(allow := known.get("allow", ()), str):
            known["allow"] = tuple(name for name in allow.split(",") if name)
        return cls(**known)


def run(context: Mapping[str, Any]) -> dict[str, Any]:
    """Do a phase's work.

    Args:
        context: as the contract has it.

    Returns:
        A result, as the contract has it.
    """
    act = {
        "pre-checkpoint": _pre_checkpoint,
        "post-checkpoint": _post_checkpoint,
        "pre-restore": _pre_restore,
        "post-restore": _post_restore,
    }.get(context["phase"])
    if act is None:
        return {}
    try:
        return act(_Call(context))
    except CudaError as error:
        return {"outcome": "failed", "reason": str(error)}


class _Call:
    """One phase's context, read."""

    def __init__(self, context: Mapping[str, Any]) -> None:
        self.options = Options.of(context.get("options") or {})
        timeout = float(context.get("timeout") or 300.0)
        self.clock = Clock(max(timeout - _MARGIN_SECONDS, timeout / 2))
        self.limits = Limits(lock=self.options.lock, move=self.options.move, back=self.clock.left / 3)
        self.pids: list[int] = list(context["job"]["pids"])
        self.data: dict[str, Any] = dict(context.get("data") or {})
        self.ok = (context.get("outcome") or {}).get("ok", True)
        self.dry_run = bool(context.get("dry_run"))
        self.machine = Path(self.options.information)

    def driver(self) -> contextlib.closing[Driver]:
        """Return the way to the driver, to be closed.

        Raises:
            CudaError: there is none.
        """
        return contextlib.closing(choose(self.options.driver, self.options.program))


def _pre_checkpoint(call: _Call) -> dict[str, Any]:
    looks = finding.looks(call.pids, call.options.devices)
    if not any(one.devices for one in looks):
        return {"done": [SUSPENDED], "data": {"processes": []}}
    with call.driver() as driver:
        candidates = [one for one in looks if one.devices and one.has_library]
        driver.prepare([one.host_pid for one in candidates])
        computing = _computing(driver, candidates, call)
        machine = gpus.this_machine(call.machine)
        scene = Scene(machine.version, looks, computing, gpus.partitioned())
        if refused := refusals(scene, call.options.allow):
            reasons = "; ".join(f"{one}; {one.known.remedy}" for one in refused)
            return {"outcome": "veto", "reason": reasons}
        used = gpus.memory_of(one.host_pid for one in computing)
        if little := room.too_little(used):
            hint = "free memory, or raise the limit"
            return {"outcome": "veto", "reason": f"{little}; {hint}", "retry_after": _RETRY_SECONDS}
        if call.dry_run:
            return {"done": [SUSPENDED], "reason": f"would move the GPU memory of {_names(computing)}"}
        return _suspended(driver, call, computing, used, machine)


def _suspended(
    driver: Driver, call: _Call, computing: Sequence[Look], used: Mapping[int, int], machine: gpus.Gpus
) -> dict[str, Any]:
    began, pids = time.monotonic(), [one.host_pid for one in computing]
    try:
        suspend(driver, pids, call.limits, call.clock)
    except SuspendError as error:
        return _failed_suspend(error, call)
    if finding.in_use(pids, call.options.devices):
        stuck = resume(driver, pids, call.limits, call.clock)
        reason = "a process holds its GPU open although its CUDA state has left it (NVML before driver 570?)"
        return {"outcome": "failed", "reason": reason + _dealt_with(stuck, call)}
    held = frozenset().union(*(one.devices for one in computing))
    mine = [gpu for gpu in machine.gpus if gpu.device in held] or list(machine.gpus)
    processes = [
        {"pid": one.pid, "program": one.program, "bytes": used.get(one.host_pid)} for one in computing
    ]
    event = {
        "event": "cuda-suspended",
        "processes": len(pids),
        "bytes": sum(used.values()) if len(used) == len(pids) else None,
        "seconds": round(time.monotonic() - began, 3),
        "by": driver.name,
    }
    data = {
        "driver": machine.driver,
        "gpus": [{"uuid": gpu.uuid, "model": gpu.model} for gpu in mine],
        "processes": processes,
    }
    return {"done": [SUSPENDED], "data": data, "events": [event]}


def _computing(driver: Driver, candidates: Sequence[Look], call: _Call) -> list[Look]:
    """Return those that the driver says have a CUDA state, running.

    Raises:
        CudaError: one does not answer, or cannot be led to running.
    """
    found, left_over = [], []
    for one in candidates:
        try:
            state = driver.state(one.host_pid, call.clock.most(call.limits.state))
        except CudaTimeoutError:
            raise
        except CudaError:
            continue  # what it holds its GPU for is the table's question
        found.append(one)
        if state is not State.RUNNING:
            left_over.append(one.host_pid)
    if left_over and (stuck := settle(driver, left_over, call.limits, call.clock)):
        raise CudaError("a process's CUDA state was not running" + _dealt_with(stuck, call))
    return found


def _failed_suspend(error: SuspendError, call: _Call) -> dict[str, Any]:
    if error.stuck:
        return {"outcome": "failed", "reason": f"{error}{_dealt_with(error.stuck, call)}"}
    passing = error.gone or error.code == NOT_READY or isinstance(error.__cause__, CudaTimeoutError)
    reason = f"{error}; every process has been led back to its GPU"
    if passing:
        return {"outcome": "retry", "retry_after": _RETRY_SECONDS, "reason": reason}
    return {"outcome": "failed", "reason": reason}


def _post_checkpoint(call: _Call) -> dict[str, Any]:
    recorded = call.data.get("processes")
    if recorded == [] or call.dry_run:
        return {"done": [RUNNING]}
    looks = finding.looks(call.pids, call.options.devices)
    by_pid = {one.pid: one.host_pid for one in looks}
    known = [by_pid[entry["pid"]] for entry in recorded or () if entry["pid"] in by_pid]
    candidates = known if recorded else [one.host_pid for one in looks if one.has_library]
    if not candidates:
        return {"done": [RUNNING]}
    with call.driver() as driver:
        driver.prepare(candidates)
        if recorded:
            stuck = resume(driver, known, call.limits, call.clock)
        else:  # pre-checkpoint did not come to its end: whoever has a CUDA state shall run
            mine = [pid for pid in candidates if _has_state(driver, pid, call)]
            stuck = settle(driver, mine, call.limits, call.clock)
    if stuck:
        return {"outcome": "failed", "reason": f"not every process runs on{_dealt_with(stuck, call)}"}
    return {"done": [RUNNING]}


def _has_state(driver: Driver, pid: int, call: _Call) -> bool:
    try:
        driver.state(pid, call.clock.most(call.limits.state))
    except CudaTimeoutError:
        return True
    except CudaError:
        return False
    return True


def _pre_restore(call: _Call) -> dict[str, Any]:
    if not call.data.get("processes"):
        return {}
    machine = gpus.this_machine(call.machine)
    if not machine.driver:
        raise CudaError(
            "the checkpoint needs a GPU, and this machine has no NVIDIA driver",
            hint="restore on a machine with the same kind of GPU",
        )
    with call.driver() as driver:
        driver.prepare([0])
        devices = device_map(call.data.get("gpus") or [], machine, remapping=driver.maps_devices)
    return {"data": {**call.data, "devices": devices}}


def device_map(
    recorded: Sequence[Mapping[str, str]], machine: gpus.Gpus, *, remapping: bool
) -> dict[str, str]:
    """Return which GPU is to be used in place of each recorded one; empty if they are the same.

    Args:
        recorded: ``uuid`` and ``model`` of those that the checkpoint was taken on.
        machine: the one to restore on.
        remapping: whether the way to the driver can do it.

    Raises:
        CudaError: there are too few of a model, or it cannot be done here.
    """
    here = {gpu.uuid: gpu for gpu in machine.gpus}
    if all(one["uuid"] in here for one in recorded):
        return {}
    free = [gpu for gpu in machine.gpus if gpu.uuid not in {one["uuid"] for one in recorded}]
    chosen: dict[str, str] = {}
    for one in recorded:
        match = here.get(one["uuid"]) or next((gpu for gpu in free if gpu.model == one["model"]), None)
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


def _post_restore(call: _Call) -> dict[str, Any]:
    recorded = call.data.get("processes") or []
    if not recorded or not call.ok:
        return {"done": [RUNNING]}
    by_pid = {one.pid: one.host_pid for one in finding.looks(call.pids, call.options.devices)}
    if missing := [entry for entry in recorded if entry["pid"] not in by_pid]:
        names = ", ".join(f"{entry['pid']} ({entry['program']})" for entry in missing)
        raise CudaError(f"not there after the restore, though they were computing: {names}")
    pids = [by_pid[entry["pid"]] for entry in recorded]
    began = time.monotonic()
    with call.driver() as driver:
        driver.prepare(pids)
        stuck = resume(driver, pids, call.limits, call.clock, call.data.get("devices") or None)
        name = driver.name
    if stuck:
        raise CudaError("; ".join(one.why for one in stuck))
    if lost := [pid for pid in pids if not finding.alive(pid)]:
        raise CudaError(f"process {lost[0]} ended while its GPU memory was moved back")
    seconds = round(time.monotonic() - began, 3)
    event = {"event": "cuda-restored", "processes": len(pids), "seconds": seconds, "by": name}
    return {"done": [RUNNING], "events": [event]}


def _dealt_with(stuck: Sequence[Stuck], call: _Call) -> str:
    """Do what the option says with processes that would hang for ever, and return what to add to the reason.

    One whose state is not known is left alone: it may be well.
    """
    if not stuck:
        return ""
    told = "; ".join(one.why for one in stuck)
    lost = [one.pid for one in stuck if one.state is not None] if call.options.stuck == "kill" else []
    if not lost:
        return f"; {told}; calls of CUDA there may wait for ever: if the job stands still, end it and run it again"
    for pid in lost:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    numbers = ", ".join(map(str, lost))
    return f"; {told}; process {numbers} was killed, so that the run goes back to its last checkpoint"


def _names(looks: Sequence[Look]) -> str:
    return ", ".join(map(str, looks))
