"""What the job says of itself, as the shell tells the machine: a part of `ckptrun.core.events`.

Each is about an incarnation, and means nothing once that has ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class CriticalEntered:
    """The job asks to enter a critical section.

    Args:
        now: seconds, monotonic.
        incarnation: that asks.
        section: a name for it, unique in the incarnation.
        seconds: how long it may keep dumps from beginning.
        waiter: see `events.CheckpointRequested`; answered with the section's name when no dump is in flight.
        what: what people call it, and where it is; may be empty.
        pid: of the process that enters it, as ckptrun sees it.
        nested: whoever enters it says that this is inside another one.
    """

    now: float
    incarnation: int
    section: str
    seconds: float
    waiter: int | None = None
    what: str = ""
    pid: int = 0
    nested: bool = False


@dataclass(frozen=True, slots=True)
class CriticalLeft:
    """The job has left a critical section; answered with its name."""

    now: float
    incarnation: int
    section: str
    waiter: int | None = None


@dataclass(frozen=True, slots=True)
class Beat:
    """A heartbeat of the job's; ``within`` are the seconds in which the next one comes, None if it does not say."""

    now: float
    incarnation: int
    within: float | None = None


@dataclass(frozen=True, slots=True)
class RollbackRequested:
    """The job asks to be put back to its newest checkpoint; ``waiter`` is answered with its id, or why not."""

    now: float
    incarnation: int
    reason: str
    waiter: int


@dataclass(frozen=True, slots=True)
class Reported:
    """The job's newest figures, by name."""

    now: float
    incarnation: int
    metrics: Mapping[str, float]
