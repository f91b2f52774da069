"""What a job may say to ckptrun, and ask of it. Needs the standard library only, from Python 3.8 on.

Everything works, and does nothing, where there is no ckptrun: `checkpoint` returns None, `rollback` alone raises.
docs/job.md teaches it; docs/design/channel.md says what lies below.
"""

from __future__ import annotations

from ckptrun.job._calls import (
    checkpoint,
    environment,
    heartbeat,
    incarnation,
    lineage,
    report,
    restores,
    rollback,
)
from ckptrun.job._channel import under_ckptrun
from ckptrun.job._critical import critical
from ckptrun.job._errors import (
    CheckpointFailedError,
    FencedError,
    JobError,
    NotUnderCkptrunError,
    RefusedError,
    UnavailableError,
    UsageError,
)
from ckptrun.job._loop import guard, steps
from ckptrun.job._safepoint import on_checkpoint, on_restore, safe_point

__all__ = [
    "CheckpointFailedError",
    "FencedError",
    "JobError",
    "NotUnderCkptrunError",
    "RefusedError",
    "UnavailableError",
    "UsageError",
    "checkpoint",
    "critical",
    "environment",
    "guard",
    "heartbeat",
    "incarnation",
    "lineage",
    "on_checkpoint",
    "on_restore",
    "report",
    "restores",
    "rollback",
    "safe_point",
    "steps",
    "under_ckptrun",
]
