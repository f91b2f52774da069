"""What the callbacks of all training frameworks do, in one place: each framework's module only says when."""

from __future__ import annotations

import math

from ckptrun.job import _calls, _channel, _loop, _safepoint
from ckptrun.job._errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Mapping, Union

    Every = Union[int, str, None]

EPOCH, EVALUATION = "epoch", "evaluation"
LOSS = "loss"
MOST_FIGURES = 256
"""What ckptrun keeps; a report of more might not fit into a datagram."""


class Training:
    """One training's talk with ckptrun. Nothing happens outside of `begin` and `end`, or without ckptrun.

    A training of many processes on one machine is one job: its first process beats, reports and asks for checkpoints,
    and each of them guards its own loss.

    Args:
        within: seconds in which the next batch is done, also one of an evaluation; None promises nothing.
        guard: go back to the newest checkpoint when the loss is not finite.
        checkpoint_every: so many steps of the optimizer, "epoch" or "evaluation"; None leaves it to ckptrun.

    Raises:
        UsageError: an argument makes no sense.
    """

    def __init__(self, within: float | None, guard: bool, checkpoint_every: Every) -> None:
        if isinstance(checkpoint_every, str) and checkpoint_every not in {EPOCH, EVALUATION}:
            raise UsageError(
                f"checkpoint_every={checkpoint_every!r} is nothing that a training has",
                f"give a number of steps, {EPOCH!r} or {EVALUATION!r}",
            )
        self._guard = bool(guard)
        self._after = checkpoint_every if isinstance(checkpoint_every, str) else None
        self._pace = _loop.Pace(within, None if isinstance(checkpoint_every, str) else checkpoint_every)
        self._speaks = self.guards = False
        self._before = 0.0
        self._losses: list[Any] = []

    def begin(self, *, first: bool) -> None:
        """Begin, in the first process of this machine or in another one."""
        under = _channel.under_ckptrun()
        self._speaks, self.guards = under and first, under and self._guard
        self._losses.clear()
        if self._speaks:
            self._before = self._pace.begin()

    def end(self) -> None:
        """End, however: what comes now may last as long as it likes."""
        if self._speaks:
            self._pace.end(self._before)
        self._speaks = self.guards = False
        self._losses.clear()

    def beat(self) -> None:
        """A batch is done."""
        if self._speaks:
            self._pace.beat()
        else:
            _safepoint.safe_point()

    def step(self) -> None:
        """The optimizer has taken a step."""
        if self._speaks:
            self._pace.step()
        else:
            _safepoint.safe_point()

    def done(self, what: str) -> None:
        """An epoch or an evaluation is done."""
        self.beat()
        if self._speaks and self._after == what:
            _loop.take()

    def report(self, figures: Mapping[str, Any]) -> None:
        """Pass on what the framework logs: the finite numbers of it."""
        if self._speaks:
            finite = {str(name): value for name, value in map(_finite, figures.items()) if value is not None}
            _calls.report(**dict(list(finite.items())[:MOST_FIGURES]))

    def remember(self, loss: Any) -> None:
        """Keep a loss for `check`: to look at it now would have the CPU wait for an accelerator."""
        if self.guards:
            self._losses.append(loss.detach().mean())  # it may be one of several, as with DataParallel

    def check(self) -> None:
        """See that what was remembered is finite; called before the optimizer makes weights of it."""
        losses, self._losses = self._losses, []
        for loss in losses:
            _loop.guard(**{LOSS: loss})

    def check_logged(self, figures: Mapping[str, Any]) -> None:
        """See that a loss that is logged is finite."""
        if self.guards and LOSS in figures:
            _loop.guard(**{LOSS: figures[LOSS]})


def _finite(item: tuple[str, Any]) -> tuple[str, float | None]:
    """Return a figure's name, and its value if that is a finite number."""
    name, value = item
    try:
        number = math.nan if isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of many
        return name, None
    return name, number if math.isfinite(number) else None
