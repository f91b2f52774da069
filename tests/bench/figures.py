"""One figure of a benchmark: its samples, what they come to, and whether that meets the goal.

Made by the benchmarks, shown by `report`. Everything is a median; nothing here knows how a sample was taken.
"""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

RESAMPLES = 5000
YES, NO, UNCLEAR, NO_GOAL = "yes", "NO", "unclear", "-"


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured figure.

    Args:
        what: in a few words.
        unit: of value, low and high: ``s``, ``ms``, ``MB``, ``%``, or "" for a ratio.
        value: the median.
        low: lower end of `spread`.
        high: upper end of it.
        spread: what low and high are: ``95%`` (of the median, by bootstrap) or ``range``.
        goal: in words; "" where there is none.
        met: ``yes``, ``NO``, ``unclear`` (the interval holds the goal) or ``-``.
        note: the case that was measured.
        samples: in the order they were taken.
    """

    what: str
    unit: str
    value: float
    low: float
    high: float
    spread: str
    goal: str = ""
    met: str = NO_GOAL
    note: str = ""
    samples: list[float] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def spread(what: str, unit: str, samples: Sequence[float], note: str = "") -> Figure:
    """Return the median of samples with their range; no goal."""
    return Figure(
        what,
        unit,
        statistics.median(samples),
        min(samples),
        max(samples),
        "range",
        note=note,
        samples=[*samples],
    )


def at_most(
    what: str, unit: str, samples: Sequence[float], goal: float, words: str, note: str = ""
) -> Figure:
    """Return the median of samples, which is to be `goal` or less."""
    value = statistics.median(samples)
    low, high = interval(samples) if len(samples) > 4 else (min(samples), max(samples))
    kind = "95%" if len(samples) > 4 else "range"
    met = YES if value <= goal else NO
    return Figure(what, unit, value, low, high, kind, words, met, note, [*samples])


def same(what: str, ratios: Sequence[float], tolerance: float, note: str = "") -> Figure:
    """Return the median of ratios, which is to be no more than 1 + `tolerance` by all of its interval."""
    low, high = interval(ratios)
    met = YES if high <= 1 + tolerance else NO if low > 1 + tolerance else UNCLEAR
    goal = f"<= {1 + tolerance:g}"
    return Figure(what, "", statistics.median(ratios), low, high, "95%", goal, met, note, [*ratios])


def ratio(what: str, ratios: Sequence[float], note: str = "") -> Figure:
    """Return the median of ratios with its interval; no goal."""
    low, high = interval(ratios)
    return Figure(what, "", statistics.median(ratios), low, high, "95%", note=note, samples=[*ratios])


def interval(samples: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return a bootstrap interval of the median: percentiles of the medians of resamples, always the same ones."""
    chance = random.Random(len(samples))
    medians = sorted(statistics.median(chance.choices(samples, k=len(samples))) for _ in range(RESAMPLES))
    tail = (1 - confidence) / 2
    return medians[math.floor(tail * RESAMPLES)], medians[math.ceil((1 - tail) * RESAMPLES) - 1]
