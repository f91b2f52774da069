"""Keeps what a rollback removes: a bounded folder with an index, listed by ``ckptrun files``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

ASIDE_LIMIT = 1 << 30
"""Bytes kept aside unless told otherwise: 1 GiB."""


@dataclass(frozen=True, slots=True)
class SetAside:
    """One thing kept: a line of ``index.jsonl``.

    Args:
        id: name of the kept file in the folder.
        path: where it was, in the job's eyes.
        reason: why it was removed: ``cut back``, ``replaced``, ``not in the checkpoint``.
        bytes: how many bytes are kept.
        time: seconds since the epoch.
    """

    id: str
    path: str
    reason: str
    bytes: int
    time: float


def listed(folder: Path) -> tuple[SetAside, ...]:
    """Return what the folder keeps, oldest first; empty if there is no such folder."""
    raise NotImplementedError
