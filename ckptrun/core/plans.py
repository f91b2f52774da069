"""How a run begins: decided by ``ckptrun.app``, told to the machine with `ckptrun.core.events.Begin`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Candidate:
    """A committed checkpoint to resume from; ``local`` if this machine's memory has a complete copy."""

    id: str
    seq: int
    local: bool = False


@dataclass(frozen=True, slots=True)
class Fresh:
    """Start the command anew."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Go on from the first of these that can be restored; newest first, at least one."""

    candidates: tuple[Candidate, ...]

    def __post_init__(self) -> None:
        if not self.candidates:
            raise ValueError("a run that resumes needs a checkpoint to resume from")


@dataclass(frozen=True, slots=True)
class GoOn:
    """Go on with an incarnation that an earlier supervisor has started and that has outlasted it.

    Args:
        candidates: checkpoints of it, newest first; perhaps none.
    """

    candidates: tuple[Candidate, ...] = ()


Plan: TypeAlias = Fresh | Resume | GoOn
"""How a run begins."""


def candidates(plan: Plan) -> tuple[Candidate, ...]:
    """Return the checkpoints that a run begins with."""
    return () if isinstance(plan, Fresh) else plan.candidates
