"""What the thread between a run and its pod works with: the run's side, `Hands`, and the API's, `Duty`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptrun.kube.api import Api

NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Hands:
    """What the thread does to the run; none of it blocks, and any thread may call it.

    Args:
        tell: says a sentence to the user.
        detail: says one to a curious user.
        ask: has a checkpoint taken, and calls back with its id, or with the error.
        foresee: has a checkpoint taken because the machine may soon be gone, for a reason; True if the run's own stop
            is likely to come first.
    """

    tell: Callable[[str], None]
    detail: Callable[[str], None]
    ask: Callable[[Callable[[str | None, str | None], None]], None]
    foresee: Callable[[str, bool], None]


class Duty(Protocol):
    """Something that is written from time to time; times in seconds since the epoch."""

    def due(self) -> float:
        """Return when there is something to write."""

    def work(self, api: Api) -> None:
        """Write one thing, with few requests; raises ApiError."""

    def hurry(self) -> None:
        """The run ends: what is to be written is due now."""

    def refused(self, verb: str) -> bool:
        """The right to do this is missing; return whether there is anything to do without it."""


class Idle:
    """Nothing to do."""

    def due(self) -> float:
        """Never."""
        return NEVER

    def work(self, api: Api) -> None:
        """Never called."""

    def hurry(self) -> None:
        """Nothing waits."""

    def refused(self, verb: str) -> bool:  # noqa: ARG002 -- nothing was asked for
        """Never called."""
        return True
