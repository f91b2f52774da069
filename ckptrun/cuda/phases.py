"""What the hook ``cuda`` does in each phase: reads a context, returns a result (docs/design/hooks.md).

``hooks/cuda/hook.py`` calls `run` and nothing else. Nothing that matters is remembered between two phases but what the
contract carries: a hook that is killed half-way is put right by its post-checkpoint, which asks every process for its
state. The way to the driver is kept where one process does both.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Any

from ckptrun.cuda import finding, gpus, room
from ckptrun.cuda.calls import RUNNING, SUSPENDED, Call, Ways
from ckptrun.cuda.driver import NO_STATE, NOT_READY, CudaError, CudaTimeoutError, State
from ckptrun.cuda.known import Scene, refusals
from ckptrun.cuda.operation import SuspendError, resume, settle, suspend
from ckptrun.cuda.restoring import post_restore, pre_restore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptrun.cuda.driver import Driver
    from ckptrun.cuda.finding import Look
    from ckptrun.cuda.operation import Stuck

_RETRY_SECONDS = 15.0


def run(context: Mapping[str, Any], ways: Ways | None = None) -> dict[str, Any]:
    """Do a phase's work.

    Args:
        context: as the contract has it.
        ways: kept by a process that does several; None: found and let go again.

    Returns:
        A result, as the contract has it.
    """
    act = {
        "pre-checkpoint": _pre_checkpoint,
        "post-checkpoint": _post_checkpoint,
        "pre-restore": pre_restore,
        "post-restore": post_restore,
    }.get(context["phase"])
    if act is None:
        return {}
    own = Ways()
    try:
        return act(Call(context, ways or own))
    except CudaError as error:
        return {"outcome": "failed", "reason": str(error)}
    finally:
        own.close()


def _pre_checkpoint(call: Call) -> dict[str, Any]:
    looks = finding.looks(call.pids, call.options.devices)
    if not any(one.devices for one in looks):
        return {"done": [SUSPENDED], "data": {"processes": []}}
    driver = call.driver()
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
    driver: Driver, call: Call, computing: Sequence[Look], used: Mapping[int, int], machine: gpus.Gpus
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
    known = any(gpu.device in held for gpu in machine.gpus)
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
        "gpus": [
            {"uuid": gpu.uuid, "model": gpu.model, "used": gpu.device in held or not known}
            for gpu in machine.gpus
        ],
        "processes": processes,
        "locked": began,
    }
    return {"done": [SUSPENDED], "data": data, "events": [event]}


def _computing(driver: Driver, candidates: Sequence[Look], call: Call) -> list[Look]:
    """Return those that the driver says have a CUDA state, running.

    Raises:
        CudaError: one does not answer, or cannot be led to running.
    """
    found, left_over = [], []
    for one in candidates:
        try:
            state = driver.state(one.host_pid, call.clock.most(call.limits.state))
        except CudaError as error:
            if error.code not in NO_STATE:
                raise
            continue  # what it holds its GPU for is the table's question
        found.append(one)
        if state is not State.RUNNING:
            left_over.append(one.host_pid)
    if left_over and (stuck := settle(driver, left_over, call.limits, call.clock)):
        raise CudaError("a process's CUDA state was not running" + _dealt_with(stuck, call))
    return found


def _failed_suspend(error: SuspendError, call: Call) -> dict[str, Any]:
    if error.stuck:
        return {"outcome": "failed", "reason": f"{error}{_dealt_with(error.stuck, call)}"}
    passing = error.gone or error.code == NOT_READY or isinstance(error.__cause__, CudaTimeoutError)
    reason = f"{error}; every process has been led back to its GPU"
    if passing:
        return {"outcome": "retry", "retry_after": _RETRY_SECONDS, "reason": reason}
    return {"outcome": "failed", "reason": reason}


def _post_checkpoint(call: Call) -> dict[str, Any]:
    recorded = call.data.get("processes")
    if recorded == [] or call.dry_run:
        return {"done": [RUNNING]}
    looks = finding.looks(call.pids, call.options.devices)
    by_pid = {one.pid: one.host_pid for one in looks}
    known = [by_pid[entry["pid"]] for entry in recorded or () if entry["pid"] in by_pid]
    candidates = known if recorded else [one.host_pid for one in looks if one.has_library]
    if not candidates:
        return {"done": [RUNNING]}
    began = time.monotonic()
    driver = call.driver()
    driver.prepare(candidates)
    if recorded:
        stuck = resume(driver, known, call.limits, call.clock)
    else:  # pre-checkpoint did not come to its end: whoever has a CUDA state shall run
        mine = [pid for pid in candidates if _has_state(driver, pid, call)]
        stuck = settle(driver, mine, call.limits, call.clock)
    if stuck:
        return {"outcome": "failed", "reason": f"not every process runs on{_dealt_with(stuck, call)}"}
    if not recorded:
        return {"done": [RUNNING]}
    now = time.monotonic()
    event = {
        "event": "cuda-resumed",
        "processes": len(known),
        "seconds": round(now - began, 3),
        "locked_seconds": round(now - call.data.get("locked", now), 3),
        "by": driver.name,
    }
    return {"done": [RUNNING], "events": [event]}


def _has_state(driver: Driver, pid: int, call: Call) -> bool:
    try:
        driver.state(pid, call.clock.most(call.limits.state))
    except CudaTimeoutError:
        return True
    except CudaError:
        return False
    return True


def _dealt_with(stuck: Sequence[Stuck], call: Call) -> str:
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
