"""What is known to hang, to fail or to corrupt when CUDA state is saved: one table, read by the hook and by the doctor.

An entry is asked about a `Scene`, the CUDA processes of one job on one driver. Sources stand beside the entries;
nothing here has been measured by this project, which has had no GPU so far (docs/gpu.md).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptrun.cuda.finding import Kind, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ckptrun.cuda.finding import Look

OLDEST_DRIVER = (570,)
"""The first whose locks have a time limit, and that gives up NVML's devices (NVIDIA/cuda-checkpoint, README)."""

IPC_DRIVER = (610,)
"""The first that saves memory shared by CUDA IPC."""

REMAPPING_DRIVER = (580,)
"""The first that restores to other GPUs."""

_MPS_PIPE = "tmp/nvidia-mps/control"


@dataclass(frozen=True)
class Scene:
    """What the table is asked about.

    Args:
        driver: the driver's version; empty if it is not known.
        looks: all processes of the job.
        computing: those with a CUDA state, as far as is known.
        partitioned: whether a GPU is divided by MIG.
    """

    driver: tuple[int, ...]
    looks: Sequence[Look]
    computing: Sequence[Look]
    partitioned: bool | None = None


@dataclass(frozen=True)
class Known:
    """One thing that does not go well.

    Args:
        name: stable; the hook's option ``allow`` takes it.
        what: the cause, as what the culprit does.
        happens: what would happen.
        remedy: the next step; environment variables where these avoid it.
        culprits: the processes it concerns; none if it does not apply.
        drivers: which drivers, for the doctor's matrix.
    """

    name: str
    what: str
    happens: str
    remedy: str
    culprits: Callable[[Scene], Sequence[Look]]
    drivers: Callable[[tuple[int, ...]], bool] = lambda _: True


@dataclass(frozen=True)
class Refusal:
    """An entry that applies.

    Args:
        known: the entry.
        culprits: processes.
    """

    known: Known
    culprits: tuple[Look, ...]

    def __str__(self) -> str:
        names = ", ".join(map(str, self.culprits[:3])) + (" and others" if len(self.culprits) > 3 else "")
        return f"{self.known.name}: {names} {self.known.what}, and {self.known.happens}"


def _old(scene: Scene) -> Sequence[Look]:
    return scene.computing if scene.driver and scene.driver < OLDEST_DRIVER else ()


def _mig(scene: Scene) -> Sequence[Look]:
    unsaid = scene.partitioned is None
    return [
        one
        for one in scene.computing
        if (unsaid and any(device.startswith("nvidia-caps/") for device in one.devices))
        or one.environment.get("CUDA_VISIBLE_DEVICES", "").startswith("MIG-")
    ] or (scene.computing if scene.partitioned else ())


def _mps(scene: Scene) -> Sequence[Look]:
    return [
        one
        for one in scene.computing
        if one.environment.get("CUDA_MPS_PIPE_DIRECTORY")
        or os.path.exists(f"/proc/{one.host_pid}/root/{_MPS_PIPE}")  # noqa: PTH110 -- Path's raises where it may not look
    ]


def _group(scene: Scene) -> list[Look]:
    """Return the processes that speak NCCL with one another."""
    speaking = [one for one in scene.computing if one.speaks_nccl]
    return speaking if len(scene.computing) > 1 else []


def _without(looks: Sequence[Look], **wanted: str) -> list[Look]:
    """Return those that none of these variables was given to, with this value."""
    return [one for one in looks if all(one.environment.get(name) != value for name, value in wanted.items())]


def _nvls(scene: Scene) -> Sequence[Look]:
    return _without(_group(scene), NCCL_NVLS_ENABLE="0")


def _peer_to_peer(scene: Scene) -> Sequence[Look]:
    return _without(_group(scene), NCCL_P2P_DISABLE="1", NCCL_CUMEM_ENABLE="0")


def _legacy_ipc(scene: Scene) -> Sequence[Look]:
    if scene.driver and scene.driver >= IPC_DRIVER:
        return ()
    legacy = [one for one in _group(scene) if one.environment.get("NCCL_CUMEM_ENABLE") == "0"]
    return _without(legacy, NCCL_P2P_DISABLE="1")


def _host_memory(scene: Scene) -> Sequence[Look]:
    return _without(_group(scene), NCCL_SHM_DISABLE="1", NCCL_CUMEM_HOST_ENABLE="0")


def _forked(scene: Scene) -> Sequence[Look]:
    computing = {one.host_pid for one in scene.computing}
    return [
        one
        for one in scene.looks
        if one.host_pid not in computing
        and one.devices
        and (one.has_library or kind_of(one, scene.looks) is Kind.FORKED)
    ]


def _holders(scene: Scene) -> Sequence[Look]:
    return [one for one in scene.looks if kind_of(one, scene.looks) is Kind.HOLDER]


TABLE = (
    Known(
        "old-driver",
        "uses a driver older than 570",
        "its locks have no time limit and can hang for ever",
        "install a driver of 570 or newer",
        _old,
        lambda version: version < OLDEST_DRIVER,
    ),
    # CRIU's plugins/cuda/README.md; NVIDIA/cuda-checkpoint's README.
    Known(
        "mig",
        "computes on a GPU that is divided by MIG",
        "the driver cannot save that",
        "use whole GPUs: nvidia-smi -mig 0",
        _mig,
    ),
    Known(
        "mps",
        "computes through MPS",
        "the driver cannot save that",
        "end the MPS daemon (echo quit | nvidia-cuda-mps-control) and unset CUDA_MPS_PIPE_DIRECTORY",
        _mps,
    ),
    # NVIDIA/nccl issues 2117 and 2337: NVLS's multicast memory cannot be restored.
    Known(
        "nccl-nvls",
        "speaks NCCL, which may use NVLink SHARP (NVLS)",
        "the driver hangs on that",
        "start the job with NCCL_NVLS_ENABLE=0",
        _nvls,
    ),
    # NVIDIA/cuda-checkpoint issues 27, 30, 45 and 47.
    Known(
        "nccl-p2p",
        "speaks NCCL from GPU to GPU, by CUMEM memory",
        "a restore of that fails",
        "start the job with NCCL_P2P_DISABLE=1 (with a driver of 610 or newer NCCL_CUMEM_ENABLE=0 will do)",
        _peer_to_peer,
    ),
    Known(
        "nccl-ipc",
        "speaks NCCL from GPU to GPU, by CUDA IPC",
        "drivers before 610 hang on that",
        "start the job with NCCL_P2P_DISABLE=1, or install a driver of 610 or newer",
        _legacy_ipc,
        lambda version: version < IPC_DRIVER,
    ),
    # NVIDIA/nccl issue 2350.
    Known(
        "nccl-shm",
        "speaks NCCL through host memory that CUMEM made",
        "it hangs after a restore",
        "start the job with NCCL_CUMEM_HOST_ENABLE=0, or with NCCL_SHM_DISABLE=1",
        _host_memory,
    ),
    # CRIU's plugins/cuda/README.md: such references stay, and CRIU cannot dump them.
    Known(
        "forked-child",
        "holds a GPU open without a CUDA state of its own, as a child does that was forked by a process that computes",
        "the driver cannot release that",
        "start such workers before the first call of CUDA, or by spawn: torch's DataLoader(multiprocessing_context="
        "'spawn'), multiprocessing.set_start_method('spawn')",
        _forked,
    ),
    Known(
        "device-holder",
        "holds a GPU open without computing (a monitor such as nvidia-smi or NVML)",
        "the driver cannot release that",
        "run it outside of the job, or end it before a checkpoint",
        _holders,
    ),
)
"""In the order in which they are told."""

UNSEEN = (
    (
        "managed-memory",
        "unified (managed) memory: cudaMallocManaged, torch.cuda.MemPool on managed allocators",
    ),
    (
        "cuda-ipc",
        "memory shared by CUDA IPC (tensors sent through torch.multiprocessing queues), before driver 610",
    ),
)
"""What no look from outside shows: the driver refuses it, and may leave the process in the state ``failed``."""


def refusals(scene: Scene, allowed: Sequence[str] = ()) -> list[Refusal]:
    """Return what speaks against saving a job's CUDA state.

    Args:
        scene: the job.
        allowed: names of entries that are not to count.
    """
    asked = ((known, tuple(known.culprits(scene))) for known in TABLE if known.name not in allowed)
    return [Refusal(known, culprits) for known, culprits in asked if culprits]
