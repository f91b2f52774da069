"""What a capsule that cannot be made lacks, in words."""

from __future__ import annotations

import os

from ckptrun.capsule.processes import may_mount, security_label
from ckptrun.core import confinement
from ckptrun.errors import MissingFeatureError, PermissionMissingError


def explain(failure: str) -> PermissionMissingError | MissingFeatureError:
    """Return the error for what the helper said: an errno and where it was met, as ``13 mount /proc``."""
    number, _, where = failure.partition(" ")
    reason = os.strerror(int(number)) if number.isdigit() and int(number) else "no reason given"
    message = f"the capsule cannot be made: {where}: {reason}"
    hint = "ckptrun doctor says what this machine lacks"
    if number in {"1", "13"}:
        if where.startswith("mount ") and os.geteuid() == 0:
            hint = f"{confinement.mounting(security_label(), capable=may_mount())}; {hint}"
        return PermissionMissingError(message, hint=hint)
    if number == "2" and where.startswith("mount /dev/"):
        hint = f"the image must have the folder {where.removeprefix('mount ')}, to mount it there"
    return MissingFeatureError(message, hint=hint)
