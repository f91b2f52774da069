"""The stand-in's other face: what ``cuda.bindings.driver`` of cuda-bindings 13 has of checkpoints, by the same
names."""

from __future__ import annotations

import ctypes
import enum
import os
import uuid
from pathlib import Path

from standin_machine import STATES, TEXTS, Machine

_folder = Path(__file__)


def standing_in(folder: str, name: str, module: dict) -> None:
    """Fill a module with the API."""
    machine = Machine(folder)
    CUresult = enum.IntEnum("CUresult", {"CUDA_SUCCESS": 0, **{f"CUDA_ERROR_{n}": n for n in TEXTS}})
    CUprocessState = enum.IntEnum(
        "CUprocessState", {f"CU_PROCESS_STATE_{s.upper()}": n for n, s in enumerate(STATES)}
    )
    initialised = []

    class CUuuid:
        def __init__(self):
            self._raw = ctypes.create_string_buffer(16)

        def getPtr(self):
            return ctypes.addressof(self._raw)

        @property
        def bytes(self):
            return self._raw.raw

    class CUcheckpointGpuPair:
        oldUuid = newUuid = None

    class CUcheckpointRestoreArgs:
        gpuPairs = ()
        gpuPairsCount = 0

    class CUcheckpointLockArgs:
        timeoutMs = 0

    def cuInit(flags):
        assert flags == 0
        if initialised:
            return (CUresult.CUDA_SUCCESS,)
        code = machine.initialise(os.environ.get("CUDA_VISIBLE_DEVICES"))
        initialised.extend([True] * (code == 0))
        return (CUresult(code),)

    def cuDriverGetVersion():
        return CUresult.CUDA_SUCCESS, 13000

    def cuCheckpointProcessGetState(pid):
        code, state = machine.call("state", pid)
        return CUresult(code), None if code else CUprocessState(STATES.index(state))

    def cuCheckpointProcessLock(pid, args):
        return (CUresult(machine.call("lock", pid, args.timeoutMs if args else 0)[0]),)

    def cuCheckpointProcessCheckpoint(pid, args):
        assert args is None
        return (CUresult(machine.call("checkpoint", pid)[0]),)

    def cuCheckpointProcessRestore(pid, args):
        if not initialised:
            return (CUresult(800),)
        pairs = list(args.gpuPairs) if args else []
        assert not args or args.gpuPairsCount == len(pairs)
        text = lambda value: f"GPU-{uuid.UUID(bytes=value.bytes)}"  # noqa: E731
        devices = {text(pair.oldUuid): text(pair.newUuid) for pair in pairs}
        return (CUresult(machine.call("restore", pid, 0, devices)[0]),)

    def cuCheckpointProcessUnlock(pid, args):
        assert args is None
        return (CUresult(machine.call("unlock", pid)[0]),)

    module.update({key: value for key, value in locals().items() if key[:2].lower() == "cu"})
