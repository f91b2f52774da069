"""What NVIDIA's driver offers for checkpoints, as one small protocol, and how it fails.

Two parts speak it: `ckptrun.cuda.bindings` and `ckptrun.cuda.program`. Every call has a limit of wall-clock time,
because calls are known to hang: while one process of an NCCL group is locked, even asking its peer for its state can.

States and transitions (CUDA driver API, "CUDA Checkpointing")::

    running --lock--> locked --checkpoint--> checkpointed --restore--> locked --unlock--> running

A lock that reaches its time limit leaves the process running. An error during checkpoint or restore can leave it in
``failed``, which nothing leads out of.
"""

from __future__ import annotations

import enum
import os
from typing import TYPE_CHECKING, Protocol

from ckptrun.errors import CkptrunError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class State(enum.StrEnum):
    """What a process's CUDA state is."""

    RUNNING = "running"
    LOCKED = "locked"
    CHECKPOINTED = "checkpointed"
    FAILED = "failed"
    MOVING = "moving"
    """Between two others: only newer drivers tell."""


class Action(enum.StrEnum):
    """What the driver can be asked to do with a process."""

    LOCK = "lock"
    CHECKPOINT = "checkpoint"
    RESTORE = "restore"
    UNLOCK = "unlock"


CODES = {
    1: "invalid argument",
    2: "out of memory",
    3: "initialization error",
    100: "no CUDA-capable device is detected",
    304: "OS call failed or operation not supported on this OS",
    401: "the operation cannot be performed in the present state",
    600: "device not ready",
    800: "operation not permitted",
    801: "operation not supported",
    999: "unknown error",
}
"""The driver's result codes (CUresult) that matter here, and what it calls them (cuGetErrorString)."""

OUT_OF_MEMORY, NOT_READY, NOT_PERMITTED, NOT_SUPPORTED = 2, 600, 800, 801
UNKNOWN_CODE = -1
NO_STATE = frozenset({1, 3, 304})
"""What a question for the state of a process is answered with that has none, or is gone."""

_HINTS = {
    OUT_OF_MEMORY: "end what else uses the GPU (nvidia-smi names it)",
    NOT_READY: "the GPU was busy for all of the time; raise the hook's option lock, or checkpoint between long kernels",
    NOT_PERMITTED: "run ckptrun as root, and turn persistence mode on: nvidia-smi -pm 1",
    NOT_SUPPORTED: "unified (managed) memory, CUDA IPC, MIG and MPS cannot be saved; see docs/gpu.md",
    100: "turn persistence mode on: nvidia-smi -pm 1; nvidia-smi tells whether the driver sees the GPU",
}


class CudaError(CkptrunError):
    """The driver refused a call, or could not be asked.

    Args:
        message: one sentence.
        code: the driver's result; `UNKNOWN_CODE` if it gave none.
    """

    def __init__(self, message: str, *, hint: str = "", code: int = UNKNOWN_CODE) -> None:
        super().__init__(message, hint=hint)
        self.code = code


class CudaTimeoutError(CudaError):
    """A call took longer than it may; what made it was killed."""


def refused(what: str, pid: int, code: int, text: str = "") -> CudaError:
    """Return the error for a result of the driver's.

    Args:
        what: of the call, such as ``lock``.
        pid: host PID.
        code: the result.
        text: what was printed, if there is no code.
    """
    said = CODES.get(code) or text or f"error {code}"
    return CudaError(
        f"the driver could not {what} process {pid}: {said}", hint=_HINTS.get(code, ""), code=code
    )


def hung(what: str, pid: int, seconds: float) -> CudaTimeoutError:
    """Return the error for a call that was cut off."""
    return CudaTimeoutError(
        f"the driver gave no answer to '{what}' of process {pid} within {seconds:.3g} s",
        hint="a peer that is locked can cause this; see docs/gpu.md for NCCL",
    )


class Driver(Protocol):
    """The driver's calls for one process at a time; several threads may call at once, each for another process."""

    name: str
    """For messages."""

    maps_devices: bool
    """Whether a restore can go to GPUs of other UUIDs."""

    reach: float
    """See `REACH_SECONDS`."""

    def prepare(self, pids: Sequence[int], more: int = 0) -> None:
        """Get ready for calls, so that no time is lost once a process is locked.

        Args:
            pids: host PIDs of the processes that they will be about.
            more: how many others, whose PIDs are not known yet.
        """

    def state(self, pid: int, seconds: float) -> State:
        """Return a process's state.

        Raises:
            CudaError: it has no CUDA state, or is gone.
            CudaTimeoutError: no answer within `seconds`.
        """

    def act(self, pid: int, action: Action, seconds: float, devices: Mapping[str, str] | None = None) -> None:
        """Do something with a process, and return when it is done.

        Args:
            pid: host PID.
            action: what.
            seconds: the most it may take. A lock has this for submitted work to end, and gives up by itself then; it is
                cut off only `REACH_SECONDS` later.
            devices: for a restore, the UUID to use in place of each that was used; names every one.

        Raises:
            CudaError: the driver refused.
            CudaTimeoutError: no answer within `seconds`; whether it happens yet is not known.
        """

    def close(self) -> None:
        """End all helpers."""


def environment() -> dict[str, str]:
    """Return the environment for what calls the driver: which GPUs the job may see says nothing about us."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CUDA_")}


REACH_SECONDS = 10.0
"""What a call may take to reach the driver, and back: ``cuda-checkpoint`` attaches to it anew each time, which takes
seconds on a machine of many GPUs. One that is cut off in the middle can leave its process in any state."""


def lock_milliseconds(seconds: float) -> int:
    """Return the limit to give the driver for a lock."""
    return max(1, int(seconds * 1000))
