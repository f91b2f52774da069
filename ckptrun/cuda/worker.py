"""Calls the driver by NVIDIA's ``cuda-bindings``, in a process of its own: one that hangs can be killed.

Started by `ckptrun.cuda.bindings`. One JSON object a line on standard input, one on standard output for each; must
not know more than that package, so that starting it is quick.
"""

from __future__ import annotations

import ctypes
import json
import sys
import uuid
from typing import Any

CALLS = tuple(
    f"cuCheckpointProcess{name}" for name in ("GetState", "Lock", "Checkpoint", "Restore", "Unlock")
)


def _uuid(driver: Any, text: str) -> Any:
    """Return a CUuuid: the package has no other way to fill one."""
    value = driver.CUuuid()
    ctypes.memmove(int(value.getPtr()), uuid.UUID(text.removeprefix("GPU-")).bytes, 16)
    return value


def _restore_arguments(driver: Any, pairs: list[list[str]]) -> Any:
    if not pairs:
        return None
    made = []
    for old, new in pairs:
        pair = driver.CUcheckpointGpuPair()
        pair.oldUuid, pair.newUuid = _uuid(driver, old), _uuid(driver, new)
        made.append(pair)
    arguments = driver.CUcheckpointRestoreArgs()
    arguments.gpuPairs = made
    arguments.gpuPairsCount = len(made)
    return arguments


def able(driver: Any) -> dict[str, Any]:
    """Return whether this version of the package has every call, and whether restores can go to other GPUs.

    Versions 13.0.0 and 13.0.1 have all but the restore: what they checkpoint nobody gets back.
    """
    missing = [name for name in CALLS if not hasattr(driver, name)]
    if missing:
        return {"ok": False, "error": f"it lacks {', '.join(missing)}: 12.8 or newer is needed, of 13 13.0.2"}
    maps = hasattr(driver, "CUcheckpointGpuPair") and hasattr(driver.CUcheckpointRestoreArgs, "gpuPairs")
    return {"ok": True, "maps_devices": maps}


def answer(driver: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Carry one request out.

    Args:
        driver: the module ``cuda.bindings.driver``.
        request: ``do``; ``pid``, ``milliseconds`` (lock), ``devices`` (restore).

    Returns:
        ``code``, and ``value`` where the call has one.
    """
    do, pid = request["do"], request.get("pid", 0)
    if do == "initialise":
        result = driver.cuInit(0)
    elif do == "version":
        result = driver.cuDriverGetVersion()
    elif do == "state":
        result = driver.cuCheckpointProcessGetState(pid)
    elif do == "lock":
        arguments = driver.CUcheckpointLockArgs()
        arguments.timeoutMs = request["milliseconds"]
        result = driver.cuCheckpointProcessLock(pid, arguments)
    elif do == "checkpoint":
        result = driver.cuCheckpointProcessCheckpoint(pid, None)
    elif do == "restore":
        driver.cuInit(0)  # a restore wants this, or persistence mode; once it is done it costs nothing
        result = driver.cuCheckpointProcessRestore(pid, _restore_arguments(driver, request["devices"]))
    else:
        result = driver.cuCheckpointProcessUnlock(pid, None)
    code = int(result[0])
    return {"code": code, "value": int(result[1]) if not code and len(result) > 1 else None}


def main() -> None:
    """Serve requests until standard input ends."""
    try:
        from cuda.bindings import driver  # type: ignore[import-not-found, unused-ignore] # noqa: PLC0415

        hello = able(driver)
    except Exception as error:  # noqa: BLE001 -- whatever it is, the other side tells the user
        driver, hello = None, {"ok": False, "error": f"{type(error).__name__}: {error}"}
    print(json.dumps(hello), flush=True)  # noqa: T201 -- this is the protocol
    for line in sys.stdin:
        try:
            reply = answer(driver, json.loads(line))
        except Exception as error:  # noqa: BLE001 -- as above
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)  # noqa: T201 -- as above


if __name__ == "__main__":
    main()
