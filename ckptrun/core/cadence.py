"""When the next checkpoint by time is due. Called by the machine; knows nothing of slots, uploads or phases.

``auto`` spends at most about 3 % of the time on checkpoints: the next one is due 30 times as long after the
end of the last as that took (frozen + upload), and never sooner than 30 s. A dump that fails
backs off, doubling.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptrun.core.config import Interval

AUTO_FLOOR = 30.0
"""Seconds: the first automatic checkpoint, and the least distance of the following ones."""

AUTO_FACTOR = 30.0
"""How many times its own cost an automatic checkpoint is kept away from the last one."""

BACKOFF_FLOOR = 10.0
"""Seconds until the first new try after a dump failed."""

BACKOFF_CEILING = 600.0
"""Seconds between tries of a dump that never succeeds."""

SKIP_FLOOR = 1.0
"""Seconds until the next try after a dump was skipped, at least."""


@dataclass(frozen=True, slots=True)
class Cadence:
    """The clockwork of one run's checkpoints by time.

    Args:
        interval: seconds, ``auto``, or None for none by time.
        due: monotonic seconds of the next one; None if none is planned.
        failures: dumps failed in a row.
        skips: dumps skipped in a row.
    """

    interval: Interval
    due: float | None = None
    failures: int = 0
    skips: int = 0

    def started(self, now: float) -> Cadence:
        """Return the cadence after the job began to run, fresh or restored."""
        return self._planned(now + (AUTO_FLOOR if self.interval == "auto" else self.interval or 0.0))

    def dumping(self, now: float) -> Cadence:
        """Return the cadence after a dump began, whatever its trigger."""
        if isinstance(self.interval, str) or self.interval is None:
            return replace(self, due=None)
        return replace(self, due=now + self.interval)

    def staged(self, now: float, frozen_seconds: float) -> Cadence:
        """Return the cadence after a dump succeeded; its upload may still take long, or fail."""
        return replace(self._auto(now, frozen_seconds), failures=0, skips=0)

    def committed(self, now: float, cost_seconds: float) -> Cadence:
        """Return the cadence after a commit; ``cost_seconds`` is frozen time plus upload time."""
        return self._auto(now, cost_seconds)

    def failed(self, now: float, retry_after: float | None) -> Cadence:
        """Return the cadence after a dump failed; ``retry_after`` seconds were asked for, or None."""
        pause = min(BACKOFF_CEILING, BACKOFF_FLOOR * 2.0 ** min(self.failures, 10))
        later = self._not_before(now + max(pause, retry_after or 0.0))
        return replace(later, failures=self.failures + 1)

    def skipped(self, now: float, retry_after: float | None) -> Cadence:
        """Return the cadence after somebody did not want a dump now: no failure, so no growing pause."""
        pause = BACKOFF_FLOOR if retry_after is None else retry_after
        return replace(self._not_before(now + max(SKIP_FLOOR, pause)), skips=self.skips + 1)

    def cut_short(self, now: float) -> Cadence:
        """Return the cadence after a dump that the job's own end cut short: neither failed nor skipped."""
        return self._not_before(now + BACKOFF_FLOOR)

    def _auto(self, now: float, cost_seconds: float) -> Cadence:
        if self.interval != "auto":
            return self
        return replace(self, due=now + max(AUTO_FLOOR, AUTO_FACTOR * cost_seconds))

    def _planned(self, due: float) -> Cadence:
        return replace(self, due=None if self.interval is None else due)

    def _not_before(self, moment: float) -> Cadence:
        """Put the next checkpoint at ``moment``, or later if it is planned for later."""
        return self._planned(max(moment, self.due or moment))
