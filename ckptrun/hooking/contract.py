"""The hook contract in code: phases, what a hook is, what it answers. The schemas beside it say the same.

Pure. `runner` speaks it with processes, `phases` decides by it.
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ckptrun.core.model import Json

VERSION = 1
TIMEOUT_SECONDS = 30.0
ORDER = 50
RETRY_AFTER_SECONDS = 1e9
"""A longer ``retry_after`` is a mistake; waiting for so long is what nothing here can do."""
DATA_BYTES = 64 << 10
"""What a hook may have stored with one checkpoint, as JSON."""


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
class Result:
    """What a hook answers.

    Args:
        outcome: how it went.
        retry_after: seconds after which another try makes sense; None if it does not say.
        reason: one clause for people; empty if there is nothing to say.
        done: what was done, compared with what is required.
        data: to be kept with the checkpoint; None if there is nothing to keep.
        events: for the run's diary; each has the key ``event``.
        released: keys of the messages that it has taken.
    """

    outcome: Outcome = Outcome.OK
    retry_after: float | None = None
    reason: str = ""
    done: tuple[str, ...] = ()
    data: dict[str, Json] | None = None
    events: tuple[dict[str, Json], ...] = ()
    released: tuple[str, ...] = ()

    @classmethod
    def from_bytes(cls, text: bytes) -> Result:
        """Read what a hook has written; nothing at all is ok.

        Raises:
            ValueError: it is not as ``schema/result.json`` wants it; the message is one clause.
        """
        if not text.strip():
            return cls()
        try:
            value = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            shown = text[:60].decode("utf-8", "backslashreplace").strip()
            raise ValueError(f"its standard output is no JSON: {shown!r}") from error
        if not isinstance(value, dict):
            raise ValueError(f"its standard output is no JSON object but {type(value).__name__}")  # noqa: TRY004
        return cls.from_json(value)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Result:
        """Read a result; see `from_bytes`."""
        for key, item in value.items():
            if key not in _CHECKS:
                raise ValueError(f"its result has {key!r}, which means nothing")
            if not _CHECKS[key](item):
                raise ValueError(f"its result's {key!r} is wrong: {str(item)[:60]!r}")
        data = value.get("data")
        if data is not None and len(json.dumps(data)) > DATA_BYTES:
            raise ValueError(f"its data is larger than {DATA_BYTES >> 10} KiB")
        after = value.get("retry_after")
        return cls(
            Outcome(value.get("outcome", "ok")),
            None if after is None else float(after),
            value.get("reason", ""),
            tuple(value.get("done", ())),
            data,
            tuple(value.get("events", ())),
            tuple(value.get("released", ())),
        )


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _is_number(value: object) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= RETRY_AFTER_SECONDS
    )


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "outcome": lambda value: isinstance(value, str) and value in set(Outcome),
    "retry_after": _is_number,
    "reason": lambda value: isinstance(value, str),
    "done": lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
    "released": lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
    "data": lambda value: isinstance(value, dict),
    "events": lambda value: (
        isinstance(value, list)
        and all(
            isinstance(item, dict) and isinstance(item.get("event"), str) and item["event"] for item in value
        )
    ),
}


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
        exit: on-exit: whose exit code ended the run (``by, code``).
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
