"""The hook contract in code: phases, what a hook is, what it is told. The schemas beside it say the same.

Pure. `runner` speaks it with processes, `phases` decides by it; what a hook answers is in `result`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptrun.core.model import Json

VERSION = 1
TIMEOUT_SECONDS = 30.0
ORDER = 50


class Phase(enum.StrEnum):
    """When a hook is run."""

    PRE_CHECKPOINT = "pre-checkpoint"
    POST_CHECKPOINT = "post-checkpoint"
    POST_COMMIT = "post-commit"
    ON_FAILURE = "on-failure"
    PRE_RESTORE = "pre-restore"
    POST_RESTORE = "post-restore"
    ON_EXIT = "on-exit"


CLOSES = {Phase.PRE_CHECKPOINT: Phase.POST_CHECKPOINT, Phase.PRE_RESTORE: Phase.POST_RESTORE}
"""The phase that closes what another has begun."""

BACKWARDS = frozenset({Phase.POST_CHECKPOINT, Phase.POST_RESTORE, Phase.ON_EXIT})
"""Phases whose hooks run in the reverse order, as brackets close."""


class Policy(enum.StrEnum):
    """What the failure of a hook means for what is being done."""

    IGNORE = "ignore"
    ABORT = "abort"


ABORTING = frozenset({Phase.PRE_CHECKPOINT, Phase.PRE_RESTORE, Phase.POST_RESTORE})
"""Phases in which a failure aborts, unless the hook or the user says otherwise."""


class Outcome(enum.StrEnum):
    """How a hook's call went."""

    OK = "ok"
    RETRY = "retry"
    VETO = "veto"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Hook:
    """One hook of a run.

    Args:
        name: unique in the run; its data is kept under it.
        programs: the command line that is run, by phase; phases it does not take part in are absent.
        source: where it was found, for people.
        description: one sentence; may be empty.
        options: its own, as its schema wants them. May hold secrets.
        timeout: seconds a call may take.
        policy: what a failure means, by phase, where it is not the phase's default.
        require: what the result's ``done`` must name, by phase.
        order: lower ones run earlier.
        messages: it is given the messages that the job has deferred, in post-commit.
        stays: whether the process that opens a checkpoint or a restore stays to close it; see `staying`.
        holds: whether somebody waits from its opening of a checkpoint to its closing: it begins last.
    """

    name: str
    programs: Mapping[Phase, tuple[str, ...]]
    source: str = ""
    description: str = ""
    options: Mapping[str, Json] = field(default_factory=dict, repr=False)
    timeout: float = TIMEOUT_SECONDS
    policy: Mapping[Phase, Policy] = field(default_factory=dict)
    require: Mapping[Phase, tuple[str, ...]] = field(default_factory=dict)
    order: int = ORDER
    messages: bool = False
    stays: bool = False
    holds: bool = False

    def aborts(self, phase: Phase) -> bool:
        """Whether a failure in this phase aborts what is being done."""
        default = Policy.ABORT if phase in ABORTING else Policy.IGNORE
        return self.policy.get(phase, default) is Policy.ABORT

    @property
    def place(self) -> tuple[bool, int]:
        """What hooks are sorted by: who holds somebody begins after all others."""
        return self.holds, self.order

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases it takes part in, in their order in a run."""
        return tuple(phase for phase in Phase if phase in self.programs)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The checkpoint that a call is about; ``created`` in seconds since the epoch."""

    id: str
    trigger: str
    created: float


@dataclass(frozen=True, slots=True)
class Message:
    """What the job has deferred, for a hook to send.

    Args:
        id: the same whenever it is handed over, another for every other message: an idempotency key.
        key: what the job calls it; unique in one call.
        payload: what the job has to say.
        queued: seconds since the epoch.
    """

    id: str
    key: str
    payload: Json
    queued: float

    def to_json(self) -> dict[str, Json]:
        """Return it for a context."""
        return {"id": self.id, "key": self.key, "payload": self.payload, "queued": self.queued}


@dataclass(frozen=True, slots=True)
class Occasion:
    """What the hooks of one phase are called for.

    Args:
        phase: which.
        incarnation: of the job; 0 before the first.
        checkpoint: the one being taken, committed or restored.
        pids: the job's processes as this machine counts, the root first.
        job_pid: the job's first process.
        root: the capsule's root directory as seen from here.
        outcome: how the checkpoint or restore went (``ok``, ``error``), in the phases that close it.
        cause: on-failure: what happened to the job (``kind, code, signal, text``).
        exit: on-exit: whose exit code ended the run, and whether for good (``by, code, final``).
        kept: post-commit: ids of the checkpoints that can still be restored; None if that is not known.
    """

    phase: Phase
    incarnation: int = 0
    checkpoint: Checkpoint | None = None
    pids: tuple[int, ...] = ()
    job_pid: int | None = None
    root: str | None = None
    outcome: Mapping[str, Json] | None = None
    cause: Mapping[str, Json] | None = None
    exit: Mapping[str, Json] | None = None
    kept: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the hooks of one run share.

    Args:
        lineage: its name.
        run: unique per run.
        command: the job's.
        cwd: the job's, and the hooks'.
        environment: the job's; the hooks get a few variables more.
        dry_run: they shall only say what they would do.
    """

    lineage: str
    run: str
    command: tuple[str, ...]
    cwd: str
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    dry_run: bool = False


def context(
    hook: Hook,
    occasion: Occasion,
    around: Surroundings,
    *,
    epoch: int,
    timeout: float,
    data: Mapping[str, Json] | None,
    messages: Sequence[Message] | None = None,
) -> dict[str, Any]:
    """Return what a hook reads on its standard input, as ``schema/context.json`` has it."""
    checkpoint = occasion.checkpoint
    return {
        "version": VERSION,
        "phase": str(occasion.phase),
        "hook": hook.name,
        "lineage": around.lineage,
        "run": around.run,
        "epoch": epoch,
        "incarnation": occasion.incarnation,
        "checkpoint": checkpoint
        and {"id": checkpoint.id, "trigger": checkpoint.trigger or None, "created": checkpoint.created},
        "job": {
            "command": list(around.command),
            "cwd": around.cwd,
            "pids": list(occasion.pids),
            "root": occasion.root,
        },
        "outcome": occasion.outcome,
        "cause": occasion.cause,
        "exit": occasion.exit,
        "kept": None if occasion.kept is None else list(occasion.kept),
        "options": dict(hook.options),
        "timeout": timeout,
        "data": data,
        "messages": None if messages is None else [message.to_json() for message in messages],
        "dry_run": around.dry_run,
    }


def environment(occasion: Occasion, around: Surroundings) -> dict[str, str]:
    """Return a hook's environment; what there is nothing to say about is absent."""
    own = {
        "CKPTRUN_PHASE": str(occasion.phase),
        "CKPTRUN_LINEAGE": around.lineage,
        "CKPTRUN_CHECKPOINT": occasion.checkpoint.id if occasion.checkpoint else None,
        "CKPTRUN_INCARNATION": str(occasion.incarnation) if occasion.incarnation else None,
        "CKPTRUN_JOB_PID": str(occasion.job_pid) if occasion.job_pid else None,
    }
    return {**around.environment, **{name: value for name, value in own.items() if value is not None}}
