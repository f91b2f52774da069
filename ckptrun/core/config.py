"""What one run's machine is told at its start, and never again. Made by ``app`` from the settings."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal, TypeAlias

Interval: TypeAlias = "float | Literal['auto'] | None"
"""Seconds between checkpoints, ``auto``, or None for none by time."""


class RestartPolicy(enum.StrEnum):
    """When an ended job is started again."""

    ON_FAILURE = "on-failure"
    ALWAYS = "always"
    NEVER = "never"


class TcpPolicy(enum.StrEnum):
    """What becomes of open TCP connections at a restore."""

    AUTO = "auto"
    KEEP = "keep"
    CLOSE = "close"


@dataclass(frozen=True, slots=True)
class Config:
    """The policies of one run.

    Args:
        token: what the ids of this run's checkpoints begin with; unique in the lineage, lower-case.
        interval: see `Interval`.
        restart: see `RestartPolicy`.
        max_restarts: restarts after failures, in this run, before giving up.
        local_slots: copies of checkpoints that local memory holds, the one being dumped included; at least 1.
        grace: seconds that a run which ends unfinished waits for its newest checkpoint to be stored.
    """

    token: str
    interval: Interval = "auto"
    restart: RestartPolicy = RestartPolicy.ON_FAILURE
    max_restarts: int = 100
    local_slots: int = 2
    grace: float = 30.0

    def __post_init__(self) -> None:
        if self.local_slots < 1:
            raise ValueError("a dump needs a place to go to: local_slots must be at least 1")
        if isinstance(self.interval, float | int) and self.interval <= 0:
            raise ValueError("the interval must be positive, 'auto' or None")
