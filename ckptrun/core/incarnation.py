"""What the machine knows about the newest incarnation of the job: a part of `ckptrun.core.state`, as frozen data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Section:
    """A critical section of the job's.

    Args:
        name: unique in the incarnation.
        seconds: how long it may keep dumps from beginning.
        until: monotonic seconds at which that is over; None while it waits outside.
        waiter: whom to answer then.
        told: that it lasts longer has been said.
        what: what people call it, and where it is; may be empty.
        pid: of the process that entered it, as ckptrun sees it.
        nested: whoever entered it says that this was inside another one.
    """

    name: str
    seconds: float
    until: float | None
    waiter: int | None = None
    told: bool = False
    what: str = ""
    pid: int = 0
    nested: bool = False

    def lasts(self, now: float) -> float:
        """Return the seconds for which the job has been inside."""
        return 0.0 if self.until is None else now - (self.until - self.seconds)

    def holds(self, now: float) -> bool:
        """Whether it keeps dumps from beginning."""
        return self.until is not None and self.until > now


@dataclass(frozen=True, slots=True)
class HeldBack:
    """A dump that is wanted and would begin, were the job not in critical sections.

    Args:
        since: monotonic seconds since when that is so.
        shut_from: monotonic seconds from which newcomers wait outside.
        shut_until: monotonic seconds until which they do.
        urgent: it is a stop's last one.
        told: it has been said.
    """

    since: float
    shut_from: float
    shut_until: float
    urgent: bool = False
    told: bool = False

    def keeps_out(self, now: float) -> bool:
        """Whether newcomers wait outside now."""
        return self.shut_from <= now < self.shut_until


@dataclass(frozen=True, slots=True)
class Incarnation:
    """The newest incarnation.

    Args:
        number: from 1; 0 before the first.
        alive: it was started and has not ended.
        origin: id of the checkpoint it is restored from; None if fresh.
        outlasted: an earlier supervisor has started it, and it has outlasted that.
        up_since: monotonic seconds since when the job runs; None before.
        sections: critical sections that the job is in, or waits for.
        held: the dump that they hold back, if they do.
        held_told: that they do has been said loudly.
        within: seconds in which a heartbeat must follow the last one; None if the job has promised none.
        beaten: monotonic seconds of the last heartbeat, or since when there was no dump.
        metrics: the job's newest figures, by name.
        condemned: why it is being killed, to be restored; see `events.Outcome.cause`.
    """

    number: int = 0
    alive: bool = False
    origin: str | None = None
    outlasted: bool = False
    up_since: float | None = None
    sections: tuple[Section, ...] = ()
    held: HeldBack | None = None
    held_told: bool = False
    within: float | None = None
    beaten: float = float("-inf")
    metrics: Mapping[str, float] = field(default_factory=dict)
    condemned: str = ""

    def in_section(self, now: float) -> bool:
        """Whether the job is where no dump may begin."""
        return any(section.holds(now) for section in self.sections)
