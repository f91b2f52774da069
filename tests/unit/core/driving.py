"""Drives a machine through a list of events and collects what it commands."""

from __future__ import annotations

from itertools import count
from typing import TypeVar

from ckptrun.core import commands as c
from ckptrun.core import events as e
from ckptrun.core import plans
from ckptrun.core.config import Config
from ckptrun.core.invariants import validate_state
from ckptrun.core.machine import step
from ckptrun.core.state import initial

C = TypeVar("C", bound=c.Command)

FAILS = e.Outcome(code=3)
KILLED = e.Outcome(signal=9)


class Machine:
    """One machine and everything it has commanded; `last` is the answer to the latest event."""

    def __init__(self, **config: object) -> None:
        self.state = initial(Config("t", **config))  # type: ignore[arg-type]
        self.last: tuple[c.Command, ...] = ()
        self.all: list[c.Command] = []
        self.numbers = count(1)

    def feed(self, *events: e.Event) -> Machine:
        for event in events:
            self.state, self.last = step(self.state, event)
            validate_state(self.state)
            self.all.extend(self.last)
        return self

    def running(self, now: float = 0.0) -> Machine:
        """Start fresh; the job runs at ``now``."""
        return self.feed(e.StagingReady(now), e.Begin(now, plans.Fresh()), e.JobStarted(now, 1))

    def resumed(self, *ids: str, local: bool = False) -> Machine:
        """Begin with a restore from the first of ``ids``, newest first."""
        candidates = tuple(plans.Candidate(name, 100 - i, local) for i, name in enumerate(ids))
        return self.feed(e.StagingReady(0.0), e.Begin(0.0, plans.Resume(candidates)))

    def staged(self, now: float) -> str:
        """Have a checkpoint requested and dumped; its upload starts if none runs."""
        self.feed(e.CheckpointRequested(now))
        name = self.the(c.TakeCheckpoint).id
        self.feed(e.DumpFinished(now, name, 0.1, 4096))
        return name

    def committed(self, now: float, expired: tuple[str, ...] = ()) -> str:
        """Have a checkpoint requested, dumped and committed."""
        name = self.staged(now)
        self.feed(e.Committed(now, name, next(self.numbers), 1.0, expired))
        return name

    def fails(self, now: float, outcome: e.Outcome = FAILS) -> Machine:
        return self.feed(e.JobEnded(now, self.state.incarnation.number, outcome))

    def restored(self, now: float) -> Machine:
        """Wait for the next restore if need be, and let it succeed."""
        while self.state.start_at is not None:
            now = max(now, self.state.start_at)
            self.feed(e.Tick(now))
        return self.feed(e.RestoreSucceeded(now, self.state.incarnation.number))

    def sent(self, kind: type[C]) -> list[C]:
        """Return the commands of one kind that the latest event brought."""
        return [command for command in self.last if isinstance(command, kind)]

    def the(self, kind: type[C]) -> C:
        """Return the one command of a kind that the latest event brought."""
        (command,) = self.sent(kind)
        return command

    @property
    def finish(self) -> tuple[str, int, str] | None:
        """Whose exit code ended the run, the code, and the state; None while it goes on."""
        found = [command for command in self.all if isinstance(command, c.Finish)]
        assert len(found) <= 1
        return (found[0].exit.by, found[0].exit.code, found[0].state.value) if found else None

    @property
    def said(self) -> str:
        return "\n".join(command.text for command in self.all if isinstance(command, c.Say))
