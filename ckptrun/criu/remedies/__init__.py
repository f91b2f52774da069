"""Remedies: one table from CRIU's log text, and from facts of /proc, to cause, evidence, next step, and safe retry.

Every message about a checkpoint or a restore that failed, ``ckptrun explain``, ``ckptrun doctor --pid`` and
``docs/remedies.md`` are made from it. `table` holds the entries, `logs` and `procfacts` are the two ways into it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptrun.criu.remedies.logs import errors_of, find
from ckptrun.criu.remedies.model import Finding, Remedy, Retry
from ckptrun.criu.remedies.procfacts import name, refusal
from ckptrun.criu.remedies.silent import silent_loss
from ckptrun.criu.remedies.table import BY_NAME, TABLE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = [
    "BY_NAME",
    "TABLE",
    "Finding",
    "Remedy",
    "Retry",
    "errors_of",
    "find",
    "finding_of",
    "refusal",
    "sentence",
    "silent_loss",
]


def finding_of(log: Path, host_pids: Sequence[int] = ()) -> Finding | None:
    """Return what a log betrays, with what /proc knows of the culprit if these processes still run."""
    try:
        finding = find(log.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    return name(finding, host_pids) if finding and host_pids else finding


def sentence(log: Path, otherwise: str) -> str:
    """Return what is known of a failure whose cause is not: `otherwise` and the log's last error."""
    try:
        errors = errors_of(log.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return f"{otherwise} and left no log"
    return f"{otherwise}: {errors[-1]}" if errors else f"{otherwise}; its log is {log}"
