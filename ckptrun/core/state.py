"""What the machine knows about one run, as frozen data. Made and changed by the machine only; read by anyone.

Two regions live side by side. The *run*: a phase, the newest incarnation, what failed so far, a stop in
progress. The *checkpoints*: at most one dump, what is staged and committed, one upload at a time, and when
the next is due. What the newest incarnation has said of itself is in `ckptrun.core.incarnation`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptrun.core.cadence import Cadence
from ckptrun.core.incarnation import Incarnation
from ckptrun.core.model import Trigger
from ckptrun.core.restart import Failures

if TYPE_CHECKING:
    from ckptrun.core.commands import Finish
    from ckptrun.core.config import Config
    from ckptrun.core.events import Outcome


class Phase(enum.StrEnum):
    """Where the run stands."""

    NEW = "new"
    LAUNCHING = "launching"
    RUNNING = "running"
    WAITING = "waiting"
    """Between two incarnations, for a moment: nothing lives."""
    RESTORING = "restoring"
    STOPPING = "stopping"
    ENDING = "ending"
    """The capsule is being killed and the verdict is known."""
    FLUSHING = "flushing"
    """Nothing lives and the verdict is known; the newest checkpoint is still on its way to the store."""
    ENDED = "ended"


class Stored(enum.StrEnum):
    """How a checkpoint stands with the store."""

    PENDING = "pending"
    """Waits for its upload."""
    UPLOADING = "uploading"
    COMMITTED = "committed"
    NOT = "not"
    """Not there, and no upload is tried again: refused, or expired since."""


class Flaw(enum.StrEnum):
    """Why a checkpoint is not restored again in this run."""

    CORRUPT = "corrupt"
    UNRESTORABLE = "unrestorable"
    POISONED = "poisoned"
    LEFT = "left behind"
    """The job was put back to an older one before this one was in the store, or anywhere else."""


@dataclass(frozen=True, slots=True)
class Request:
    """Somebody asked for a checkpoint; see `ckptrun.core.events.CheckpointRequested`."""

    waiter: int | None
    label: str
    wait: bool
    trigger: Trigger = Trigger.REQUEST


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint as far as this run is concerned.

    Args:
        id: its name.
        stored: how it stands with the store.
        local: a complete copy is in local memory.
        frozen_seconds: how long the dump stopped the job; 0 for one of an earlier run.
        flaw: why it is out of the question; None if it is not.
        requests: who waits for its commit.
    """

    id: str
    stored: Stored
    local: bool
    frozen_seconds: float = 0.0
    flaw: Flaw | None = None
    requests: tuple[Request, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether the job can be restored from it."""
        return self.flaw is None and (self.local or self.stored is Stored.COMMITTED)


@dataclass(frozen=True, slots=True)
class Dump:
    """The dump in flight; ``abandoned`` if its result is no longer wanted."""

    id: str
    trigger: Trigger
    hold: bool
    requests: tuple[Request, ...] = ()
    abandoned: bool = False


class StopStage(enum.StrEnum):
    """How far a stop has come."""

    CHECKPOINTING = "checkpointing"
    HOLDING = "holding"
    """The job is frozen at its last checkpoint, which is on its way to the store."""
    SIGNALLED = "signalled"


@dataclass(frozen=True, slots=True)
class Stop:
    """A stop in progress.

    Args:
        signum: the signal that asked for it.
        checkpoint_by: monotonic seconds until when the last checkpoint must be committed.
        kill_by: monotonic seconds at which the job is killed.
        stage: how far it has come.
        held: id of the last checkpoint, once staged.
        next_try: monotonic seconds before which no dump is tried.
        outcome: how the job ended while it was held, if somebody killed it.
    """

    signum: int
    checkpoint_by: float
    kill_by: float
    stage: StopStage = StopStage.CHECKPOINTING
    held: str | None = None
    next_try: float = float("-inf")
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """Whether uploads fail: how many in a row, and monotonic seconds before which none is tried."""

    failures: int = 0
    retry_at: float | None = None


@dataclass(frozen=True, slots=True)
class Transition:
    """One step in short, for the story that internal errors tell."""

    now: float
    event: str
    before: Phase
    after: Phase
    commands: tuple[str, ...]

    def __str__(self) -> str:
        way = self.before if self.before is self.after else f"{self.before} -> {self.after}"
        return f"{self.now:.3f} {self.event}: {way} [{', '.join(self.commands)}]"


@dataclass(frozen=True, slots=True)
class State:
    """Everything the machine knows.

    Args:
        config: the policies.
        cadence: when the next checkpoint by time is due.
        phase: where the run stands.
        now: monotonic seconds of the latest event.
        incarnation: the newest one.
        restarts: restarts after the job ended, in this run.
        last_failure: how the job ended last, unless well.
        failures: what failed after which checkpoint.
        start_at: while WAITING, monotonic seconds of the next start.
        transient_failures: restores in a row that failed because the store did not answer.
        checkpoints: those known, oldest first.
        serial: checkpoints attempted so far; makes ids.
        dump: the one in flight.
        requests: those that no dump answers yet.
        staging_ready: dumps have a place to go to.
        store: whether uploads fail.
        stop: a stop in progress.
        verdict: while ENDING or FLUSHING, how the run will have ended.
        flush_by: while FLUSHING, monotonic seconds at which the run ends, stored or not.
        wake: the outstanding `WakeAt`.
        story: the latest transitions, oldest first.
    """

    config: Config
    cadence: Cadence
    phase: Phase = Phase.NEW
    now: float = float("-inf")
    incarnation: Incarnation = field(default_factory=Incarnation)
    restarts: int = 0
    last_failure: Outcome | None = None
    failures: Failures = field(default_factory=Failures)
    start_at: float | None = None
    transient_failures: int = 0
    checkpoints: tuple[Checkpoint, ...] = ()
    serial: int = 0
    dump: Dump | None = None
    requests: tuple[Request, ...] = ()
    staging_ready: bool = False
    store: StoreHealth = field(default_factory=StoreHealth)
    stop: Stop | None = None
    verdict: Finish | None = None
    flush_by: float | None = None
    wake: float | None = None
    story: tuple[Transition, ...] = ()

    def find(self, checkpoint: str) -> Checkpoint | None:
        """Return what is known about a checkpoint."""
        return next((c for c in self.checkpoints if c.id == checkpoint), None)

    @property
    def newest(self) -> Checkpoint | None:
        """The checkpoint that a restore would start from."""
        return next((c for c in reversed(self.checkpoints) if c.usable), None)

    @property
    def unstored(self) -> Checkpoint | None:
        """The newest checkpoint that is, or may yet be, in the store, if it is not there yet."""
        kept = (Stored.PENDING, Stored.UPLOADING, Stored.COMMITTED)
        newest = next((c for c in reversed(self.checkpoints) if c.flaw is None and c.stored in kept), None)
        return None if newest is None or newest.stored is Stored.COMMITTED else newest

    @property
    def uploading(self) -> Checkpoint | None:
        """The checkpoint on its way to the store."""
        return next((c for c in self.checkpoints if c.stored is Stored.UPLOADING), None)

    @property
    def committed(self) -> bool:
        """Whether a run after this one could resume from a checkpoint that is good as far as we know."""
        return any(c.stored is Stored.COMMITTED and c.flaw is None for c in self.checkpoints)

    @property
    def slots_used(self) -> int:
        """Local copies held, the one being dumped included."""
        return sum(c.local for c in self.checkpoints) + (self.dump is not None)


def initial(config: Config) -> State:
    """Return the state before the first event."""
    return State(config, Cadence(config.interval))
