"""What the machine tells the shell to do: instructions in order; the shell waits for the end of none.

Made by `ckptrun.core.machine.step`, executed by ``ckptrun.supervisor``, which feeds the results back as
events. The docstring of a command names the events that answer it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptrun.core.events import Outcome
    from ckptrun.core.model import Exit, Json, RunState, Trigger

POST_COMMIT, ON_FAILURE = "post-commit", "on-failure"
"""Phases of `RunHooks`."""

DETAIL = "detail"
"""Level of `Say`: worth a line with ``-v``."""

NORMAL = "normal"
"""Level of `Say`: said unless ``-q``."""

ERROR = "error"
"""Level of `Say`: always said."""


@dataclass(frozen=True, slots=True)
class StartJob:
    """Start the command in a new capsule. Answers: JobStarted, StartFailed, JobEnded."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class ServeJob:
    """Serve the job that an earlier supervisor has started. Answers: JobStarted, StartFailed, JobEnded."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class RestoreJob:
    """Restore a checkpoint into a new capsule, from local memory or from the store.

    Answers: RestoreSucceeded, RestoreFailed, JobEnded.
    """

    incarnation: int
    checkpoint: str
    local: bool


@dataclass(frozen=True, slots=True)
class TakeCheckpoint:
    """Dump the job into local memory. Answers: DumpFinished or DumpFailed, always exactly one of them.

    Args:
        id: the new checkpoint's.
        trigger: why.
        hold: leave the job frozen at the end of the dump, until `ReleaseHold` or `KillCapsule`.
        deadline: monotonic seconds by which the dump and its commit must be through; None for no limit.
        label: what the requester called it.
        metrics: the job's figures, for the record.
    """

    id: str
    trigger: Trigger
    hold: bool
    deadline: float | None
    label: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AbandonDump:
    """Give a running dump up, the job goes on. Still answered: by DumpFailed, or DumpFinished if too late."""

    id: str


@dataclass(frozen=True, slots=True)
class ReleaseHold:
    """Let a job that was held frozen after dump ``id`` run on."""

    id: str


@dataclass(frozen=True, slots=True)
class Upload:
    """Put a staged checkpoint into the store and commit it. Answers: Committed or CommitFailed."""

    id: str


@dataclass(frozen=True, slots=True)
class DropLocal:
    """Free the local copy of a checkpoint."""

    id: str


@dataclass(frozen=True, slots=True)
class SignalJob:
    """Send a signal to the job."""

    signum: int


@dataclass(frozen=True, slots=True)
class KillCapsule:
    """Kill an incarnation and all in it, frozen or not. Answer: CapsuleGone, or JobEnded if faster."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class MarkBad:
    """Take a committed checkpoint out of the lineage: its stored bytes are corrupt."""

    checkpoint: str
    reason: str


@dataclass(frozen=True, slots=True)
class SetAside:
    """Have the next run pass committed checkpoints over, or ones on their way: the job keeps failing after them."""

    checkpoints: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunHooks:
    """Run the hooks of a phase that nothing waits for, after those commanded before. Not answered.

    Any `RestoreJob` that follows waits until they are through, and so does the end of the run.

    Args:
        phase: ``post-commit`` or ``on-failure``.
        checkpoint: id of the one that was committed.
        kept: post-commit: ids of those that can still be restored; None if that is not known.
        cause: how the job failed.
    """

    phase: str
    checkpoint: str | None = None
    cause: Outcome | None = None
    kept: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Send a `Tick` once the monotonic clock has reached ``when`` seconds; replaces the previous `WakeAt`."""

    when: float


@dataclass(frozen=True, slots=True)
class Answer:
    """Tell who asked for a checkpoint, or for anything else, its id, or the error; exactly one of them."""

    waiter: int
    id: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Say:
    """Speak to the user; ``level`` is DETAIL, NORMAL or ERROR of this module."""

    level: str
    text: str


@dataclass(frozen=True, slots=True)
class Record:
    """Write an event into the run's diary (``ckptrun events``)."""

    event: str
    fields: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finish:
    """The run is over: nothing of the job lives, and no command follows. ``exit`` goes to the user.

    What is left to do, in which order, is that of `ckptrun.supervisor.ending`.
    """

    exit: Exit
    state: RunState


Command: TypeAlias = (
    StartJob
    | ServeJob
    | RestoreJob
    | TakeCheckpoint
    | AbandonDump
    | ReleaseHold
    | Upload
    | DropLocal
    | SignalJob
    | KillCapsule
    | MarkBad
    | SetAside
    | RunHooks
    | WakeAt
    | Answer
    | Say
    | Record
    | Finish
)
