"""What the shell tells the machine: facts that have happened, each with the moment it was seen.

Made by ``ckptrun.supervisor``, consumed by `ckptrun.core.machine.step`. Nothing here decides anything.
``now`` is seconds on one monotonic clock; an event queued late counts as of the latest moment seen so far.

An *incarnation* is numbered by the machine (`StartJob`, `RestoreJob`), from 1. Each one ends with exactly one
of `StartFailed`, `RestoreFailed`, `JobEnded` or `CapsuleGone`; by the time that is reported, nothing of its
capsule lives. A later report about an incarnation that has ended is a straggler: taken, and nothing is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ckptrun.core.model import Trigger
from ckptrun.core.sayings import Beat as Beat  # noqa: PLC0414 - an event like those below
from ckptrun.core.sayings import CriticalEntered as CriticalEntered  # noqa: PLC0414 - an event like those below
from ckptrun.core.sayings import CriticalLeft as CriticalLeft  # noqa: PLC0414 - an event like those below
from ckptrun.core.sayings import Reported as Reported  # noqa: PLC0414 - an event like those below
from ckptrun.core.sayings import RollbackRequested as RollbackRequested  # noqa: PLC0414 - an event like those below

if TYPE_CHECKING:
    from ckptrun.core.plans import Plan


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the job ended: by an exit code or by a signal, never both.

    Args:
        code: exit code.
        signal: number of the signal that ended it.
        oom: the kernel's OOM killer sent that signal.
        after_interrupt: it ended after Ctrl-C at its terminal: the user wanted that.
        cause: why ckptrun itself killed it: `restart.HEARTBEAT`, or `restart.ROLLBACK` and the reason; else empty.
    """

    code: int | None = None
    signal: int | None = None
    oom: bool = False
    after_interrupt: bool = False
    cause: str = ""

    def __post_init__(self) -> None:
        if (self.code is None) == (self.signal is None):
            raise ValueError("an outcome is either an exit code or a signal")

    @property
    def exit_code(self) -> int:
        """The code a shell would show: the job's own, or 128 + the signal's number."""
        return self.code if self.code is not None else 128 + (self.signal or 0)

    @property
    def ok(self) -> bool:
        """Whether the job ended with exit code 0."""
        return self.code == 0


@dataclass(frozen=True, slots=True)
class Begin:
    """The run begins: the lineage is ours."""

    now: float
    plan: Plan


@dataclass(frozen=True, slots=True)
class JobStarted:
    """A fresh incarnation runs the command, or still runs it."""

    now: float
    incarnation: int


@dataclass(frozen=True, slots=True)
class StartFailed:
    """A fresh start, or going on, is impossible; ``exit_code`` is the error's (126, 127, 69, …)."""

    now: float
    incarnation: int
    error: str
    exit_code: int


@dataclass(frozen=True, slots=True)
class RestoreSucceeded:
    """A restored incarnation is verified to live.

    Args:
        now: seconds, monotonic.
        incarnation: the one that came to be.
        age: seconds since the checkpoint was taken; None if unknown.
        cut_bytes: bytes of redirected output that were cut off.
        retried: why it took a second try, and which; empty if it did not.
    """

    now: float
    incarnation: int
    age: float | None = None
    cut_bytes: int = 0
    retried: str = ""


@dataclass(frozen=True, slots=True)
class RestoreFailed:
    """A checkpoint could not be restored.

    Args:
        now: seconds, monotonic.
        incarnation: the one that did not come to be; its capsule is gone.
        checkpoint: id of the checkpoint.
        reason: one clause, as ``criu: can't open /data/x``.
        corrupt: its bytes do not authenticate or do not parse.
        transient: the store did not answer, or a disk is full; the same checkpoint is worth another try.
        unfit: it does not fit this machine as it is now, and stays good for one that it fits.
        aborted: a hook has failed: another try may do, an older checkpoint would not help.
    """

    now: float
    incarnation: int
    checkpoint: str
    reason: str
    corrupt: bool = False
    transient: bool = False
    unfit: bool = False
    aborted: bool = False


@dataclass(frozen=True, slots=True)
class JobEnded:
    """The job's root process ended and the capsule with it."""

    now: float
    incarnation: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class CapsuleGone:
    """The capsule is gone: killed on our command, or its init died."""

    now: float
    incarnation: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: the answer to `WakeAt`, which it uses up."""

    now: float


@dataclass(frozen=True, slots=True)
class CheckpointRequested:
    """Somebody asks for a checkpoint.

    Args:
        now: seconds, monotonic.
        waiter: a number to `Answer` to, unique among those open; None if nobody waits.
        label: free text for the record.
        wait: answer when it is committed; otherwise as soon as it is complete in memory.
        trigger: PREEMPTION if the machine is about to be taken away; the job runs on all the same.
    """

    now: float
    waiter: int | None = None
    label: str = ""
    wait: bool = True
    trigger: Trigger = Trigger.REQUEST


@dataclass(frozen=True, slots=True)
class StopRequested:
    """Checkpoint and stop in ``grace`` seconds; failing that, the job gets ``signum``. A second one kills."""

    now: float
    grace: float
    signum: int


@dataclass(frozen=True, slots=True)
class DumpFinished:
    """A dump is complete in local memory: the checkpoint is *staged*.

    Args:
        now: seconds, monotonic.
        id: what `TakeCheckpoint` named it.
        frozen_seconds: how long the job was stopped.
        memory_bytes: of its images.
        retried: why it took a second try, and which; empty if it did not.
    """

    now: float
    id: str
    frozen_seconds: float
    memory_bytes: int
    retried: str = ""


JOB_ENDED = "the job ended while the checkpoint was being taken"


@dataclass(frozen=True, slots=True)
class DumpFailed:
    """No checkpoint came of a dump, and the job runs on; its local memory is free again.

    Args:
        now: seconds, monotonic.
        id: what `TakeCheckpoint` named it.
        reason: one clause.
        skipped: a hook or a critical section did not want it now; not an error.
        retry_after: seconds after which another try makes sense, if known.
        job_ended: there was no job any more: its end, told by an event of its own, is all there is to say.
    """

    now: float
    id: str
    reason: str
    skipped: bool = False
    retry_after: float | None = None
    job_ended: bool = False


@dataclass(frozen=True, slots=True)
class Committed:
    """An upload ended with a commit.

    Args:
        now: when.
        id: the checkpoint's.
        seq: its place in the lineage.
        upload_seconds: how long it took.
        expired: the checkpoints that retention took out with it.
        kept: those that the store has after it; None if that is not known.
    """

    now: float
    id: str
    seq: int
    upload_seconds: float
    expired: tuple[str, ...] = ()
    kept: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class CommitFailed:
    """An upload ended without a commit; ``transient`` if the same one is worth another try."""

    now: float
    id: str
    reason: str
    transient: bool


@dataclass(frozen=True, slots=True)
class StagingReady:
    """Local memory for dumps is there: checkpoints can be taken from now on."""

    now: float


@dataclass(frozen=True, slots=True)
class StagingLost:
    """A local copy is gone (memory pressure); unless committed, the checkpoint is lost."""

    now: float
    id: str


@dataclass(frozen=True, slots=True)
class Fenced:
    """Another writer has taken the lineage over."""

    now: float
    reason: str


Event: TypeAlias = (
    Begin
    | JobStarted
    | StartFailed
    | RestoreSucceeded
    | RestoreFailed
    | JobEnded
    | CapsuleGone
    | Tick
    | CheckpointRequested
    | StopRequested
    | DumpFinished
    | DumpFailed
    | Committed
    | CommitFailed
    | StagingReady
    | StagingLost
    | Fenced
    | CriticalEntered
    | CriticalLeft
    | Beat
    | RollbackRequested
    | Reported
)
