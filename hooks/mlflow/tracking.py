"""What the hook `mlflow` needs of a tracking store, whichever it is. Times are milliseconds since the epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

TAG = "ckptrun.lineage"
"""Runs that bear it, with the lineage's name, are the job's."""
SUPERSEDED = "ckptrun.superseded"


class StepError(Exception):
    """The metrics cannot be brought in step, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run: whether it is open (not finished, failed or killed), and when it began and ended."""

    id: str
    is_open: bool
    began: int
    ended: int | None


@dataclass(frozen=True, slots=True)
class Kept:
    """How many points of one metric are of the checkpoint.

    Args:
        surely: so many were there before the freeze.
        at_most: so many were there after it; None if nobody has looked.
        freeze: points between the two that were logged by then are of it, too.
    """

    surely: int
    at_most: int | None
    freeze: int

    def cut(self, times: Sequence[int], start: int) -> list[int]:
        """Return which points go, as indexes.

        Args:
            times: of the points from number `start` on, in the order in which they were logged.
            start: at most `surely`.
        """
        return [
            index
            for index, time in enumerate(times)
            if index + start >= self.surely
            and (time > self.freeze or (self.at_most is not None and index + start >= self.at_most))
        ]


class Store(Protocol):
    """A place that runs and metrics can be changed in."""

    def runs(self, ids: Iterable[str]) -> list[Run]:
        """Return the runs of these ids, as far as there are such."""

    def tagged(self, lineage: str) -> list[Run]:
        """Return the runs that bear `TAG`, but for deleted ones."""

    def in_experiment(self, name: str) -> list[Run]:
        """Return the runs of an experiment, but for deleted ones."""

    def counts(self, run: str) -> dict[str, int]:
        """Return how many points each metric has."""

    def cut(self, run: str, kept: Mapping[str, Kept], *, dry_run: bool) -> int:
        """Remove points that are not of the checkpoint; return how many. All metrics of the run are in `kept`."""

    def reopen(self, run: str) -> None:
        """Have a run that has ended be open again."""

    def discard(self, run: str, moment: int) -> None:
        """Delete a run as MLflow does: it can be had back."""
