"""Loops that ckptrun knows of: `steps` around what a loop runs over, `guard` for what must stay finite.

`Pace` is what `steps` and the callbacks of the frameworks (`ckptrun.job.adapters`) have in common.
"""

from __future__ import annotations

import math

from ckptrun.job import _calls, _safepoint
from ckptrun.job._channel import under_ckptrun
from ckptrun.job._errors import CheckpointFailedError, RefusedError, UnavailableError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable, Iterator, TypeVar

    Item = TypeVar("Item")


class Pace:
    """The heartbeats and the checkpoints of one loop.

    Args:
        within: seconds in which the next step comes; None promises nothing.
        every: steps from one checkpoint to the next; None takes none.
    """

    def __init__(self, within: float | None, every: int | None) -> None:
        _calls.check_within(within)
        if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
            raise UsageError(f"checkpoint_every={every!r} is not a number of steps")
        self._within = within
        self._every = every
        self._done = 0

    def begin(self) -> float:
        """Beat for the first time; return what `end` is to go back to."""
        before = _calls.promised()
        self.beat()
        return before

    def beat(self) -> None:
        """Say that the loop makes progress."""
        _calls.heartbeat(self._within)

    def step(self) -> None:
        """Count a step that is done, and have a checkpoint taken if it is one's turn."""
        self.beat()
        self._done += 1
        if self._every is not None and self._done % self._every == 0:
            take()

    def end(self, before: float) -> None:
        """Take the promise back: what comes after the loop may last as long as it likes."""
        if self._within is not None:
            _calls.promise_again(before)


def take() -> None:
    """Have a checkpoint taken; one that fails is ckptrun's to tell, and costs the loop nothing."""
    try:
        _calls.checkpoint()
    except (CheckpointFailedError, UnavailableError):
        pass


def steps(
    iterable: Iterable[Item], *, within: float | None = None, checkpoint_every: int | None = None
) -> Iterable[Item]:
    """Run over anything with a heartbeat, and so a safe point, before the first step and after each.

    The promise of heartbeats holds while the loop runs: it ends with it, however it ends. What is returned has the
    length of `iterable`, if that has one, and may be run over again: it goes on counting steps.

    Args:
        iterable: what to run over.
        within: seconds that a step may last, with the fetching of its item; a job that is silent for longer hangs, and
            is killed and restored. None promises nothing.
        checkpoint_every: steps from one checkpoint to the next; the loop waits until it is complete in memory. One
            that fails is told by ckptrun, and the loop goes on.

    Raises:
        UsageError: an argument makes no sense.
    """
    return _Steps(iterable, Pace(within, checkpoint_every))


class _Steps:
    """What `steps` returns."""

    def __init__(self, iterable: Any, pace: Pace) -> None:
        self._iterable = iterable
        self._pace = pace

    def __len__(self) -> int:
        return len(self._iterable)

    def __iter__(self) -> Iterator[Any]:
        before = self._pace.begin()
        try:
            for item in self._iterable:
                yield item
                self._pace.step()
        finally:
            self._pace.end(before)


def guard(**values: float) -> None:
    """Go back to the newest checkpoint if a value is not finite, as ``guard(loss=loss)``; else do nothing.

    It is a `rollback` with a reason that is always the same, as "loss is not finite": a job that comes here again and
    again goes back further each time, and gives up in the end. Without ckptrun nothing happens.

    Raises:
        UsageError: a value is no number.
        RefusedError: it is not finite, and there is no checkpoint yet, `--restart never`, or the run is stopping.
    """
    for name, value in values.items():
        if not math.isfinite(_calls.number("guard", name, value)):
            _go_back(name)
    _safepoint.safe_point()


def _go_back(name: str) -> None:
    reason = f"{name} is not finite"
    if not under_ckptrun():
        return
    try:
        _calls.rollback(reason)
    except RefusedError as error:
        raise RefusedError(f"{reason}, and the job cannot go back: {error.message}", error.hint) from None
