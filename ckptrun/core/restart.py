"""What failures say about a checkpoint, and how long to wait. Called by the machine after the job ended.

A failure counts against the newest checkpoint that could be restored when it happened. Two with the same
signature poison it (docs/design/poisoning.md). A signal that people and schedulers send says nothing about a
checkpoint, unless it comes within a second of the restore, five times in a row.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptrun.core.events import Outcome

POISON_AFTER = 2
"""Failures with one signature that poison a checkpoint."""

QUICK_SECONDS = 1.0
"""A job that is killed sooner than this after its restore may well be killed by it."""

QUICK_POISON_AFTER = 5
"""Quick kills in a row that poison a checkpoint."""

DELAY_CEILING = 30.0
"""Seconds between restarts of a job that fails again and again."""

TRANSIENT_TRIES = 10
"""Restores of one checkpoint while the store does not answer; with the delays, about three minutes."""

HOOK_TRIES = 3
"""Restores of one checkpoint while a hook fails; a hook that waits longer for something does so by itself."""

HEARTBEAT = "heartbeat"
"""`Outcome.cause` of a job that was killed because it hung."""

ROLLBACK = "rollback: "
"""What the `Outcome.cause` of a job begins with that asked to be rolled back; the reason follows."""

_FROM_OUTSIDE = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
_REMEMBERED = 64


@dataclass(frozen=True, slots=True)
class Signature:
    """What makes two failures the same."""

    code: int | None
    signal: int | None
    oom: bool
    cause: str = ""

    @classmethod
    def of(cls, outcome: Outcome) -> Signature:
        """Return the signature of an outcome."""
        return cls(outcome.code, outcome.signal, outcome.oom, outcome.cause)

    @property
    def from_outside(self) -> bool:
        """Whether people and schedulers end jobs like this."""
        return self.signal in _FROM_OUTSIDE and not self.oom and not self.cause

    def __str__(self) -> str:
        return describe(self.code, self.signal, oom=self.oom, cause=self.cause)


@dataclass(frozen=True, slots=True)
class Tally:
    """How often the job failed in one way after one checkpoint; ``quick``: within a second, in a row."""

    checkpoint: str
    signature: Signature
    times: int = 0
    quick: int = 0

    @property
    def poisons(self) -> bool:
        """Whether the checkpoint is poisoned by this."""
        enough = QUICK_POISON_AFTER if self.signature.from_outside else POISON_AFTER
        return (self.quick if self.signature.from_outside else self.times) >= enough


@dataclass(frozen=True, slots=True)
class Failures:
    """What failed in this run.

    Args:
        tallies: by checkpoint and signature, the latest last; a bounded number.
        streak: how often the job ended in a row without a new checkpoint.
        retreats: checkpoints that were stepped back to.
    """

    tallies: tuple[Tally, ...] = ()
    streak: int = 0
    retreats: tuple[str, ...] = ()

    def counted(self, checkpoint: str, outcome: Outcome, uptime: float | None) -> tuple[Failures, Tally]:
        """Count a failure against a checkpoint.

        Args:
            checkpoint: its id.
            outcome: how the job ended.
            uptime: seconds since it was restored from this very checkpoint; None if it was not.

        Returns:
            What failed now, and the tally that changed.
        """
        signature = Signature.of(outcome)
        old = self._tally(checkpoint, signature)
        quick = 0 if uptime is None or uptime >= QUICK_SECONDS else old.quick + 1
        tally = replace(old, times=old.times + 1, quick=quick)
        return self._with(old, tally), tally

    def retreated(self, checkpoint: str, outcome: Outcome) -> tuple[Failures, bool]:
        """Step back to a checkpoint because the newer one is poisoned.

        One that was stepped back to before has led to the same end again, by way of newer checkpoints: that
        counts as a failure after it, or a job that fails for good would go in circles until its restarts are
        used up.

        Returns:
            What failed now, and whether this checkpoint is poisoned too.
        """
        if checkpoint not in self.retreats:
            return replace(self, retreats=(*self.retreats, checkpoint)[-_REMEMBERED:]), False
        failures, tally = self.counted(checkpoint, outcome, None)
        return failures, tally.poisons

    def ended(self) -> Failures:
        """The job ended once more."""
        return replace(self, streak=self.streak + 1)

    def progressed(self) -> Failures:
        """The job lived to see a new checkpoint."""
        return replace(self, streak=0)

    @property
    def delay(self) -> float:
        """Seconds to wait before the next start: none the first time, then 1, 2, 4, … up to 30."""
        return 0.0 if self.streak <= 1 else backoff(self.streak - 2)

    def account(self) -> str:
        """Return what was tried, in words: ``after a0007: exit code 1 (2 times); after …``, newest first."""
        parts = [
            f"after {t.checkpoint}: {t.signature} ({_times(t.times)})" for t in reversed(self.tallies[-8:])
        ]
        return "; ".join(parts)

    def _tally(self, checkpoint: str, signature: Signature) -> Tally:
        matching = (t for t in self.tallies if t.checkpoint == checkpoint and t.signature == signature)
        return next(matching, Tally(checkpoint, signature))

    def _with(self, old: Tally, new: Tally) -> Failures:
        others = tuple(t for t in self.tallies if t != old)
        return replace(self, tallies=(*others, new)[-_REMEMBERED:])


def backoff(failures: int, ceiling: float = DELAY_CEILING) -> float:
    """Return 1, 2, 4, … seconds for 0, 1, 2, … earlier failures, at most ``ceiling``."""
    return min(ceiling, 2.0 ** min(failures, 16))


def describe(code: int | None, signum: int | None, *, oom: bool = False, cause: str = "") -> str:
    """Return how a job ended, in words: ``exit code 3``, ``SIGSEGV``, ``SIGKILL by the OOM killer: memory ran out``."""
    if cause:
        return "a lost heartbeat" if cause == HEARTBEAT else cause
    if oom:
        return "SIGKILL by the OOM killer: memory ran out"
    if signum is None:
        return f"exit code {code}"
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {signum}"


def words(outcome: Outcome) -> str:
    """Return how a job ended, in words: see `describe`."""
    return describe(outcome.code, outcome.signal, oom=outcome.oom, cause=outcome.cause)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
