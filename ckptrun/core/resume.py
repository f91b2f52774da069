"""Running the same command again: DESIGN's table, as a table. Called by ``app`` once the lineage is ours.

A lineage that is held by a live writer never gets here: acquiring it settles that (``HeldError``).

Rows are tried from above; the first whose condition holds decides. ``--fresh`` settles every row,
``--resume`` all but another command's. Where there is no checkpoint there is nothing to choose, and a rerun
starts anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ckptrun.core.model import Exit, RunState
from ckptrun.errors import ChoiceNeededError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

NO_CHECKPOINT = 74
"""What a run exits with when no checkpoint could be restored."""


@dataclass(frozen=True, slots=True)
class LastRun:
    """How the lineage's last run stands.

    Args:
        state: RUNNING means that it was interrupted, since its writer is gone.
        exit: whose code it ended with; None while running.
        command_digest: of the command it ran.
        command: that command in words, for messages.
        ending: it ended well, and what follows that was not seen through.
    """

    state: RunState
    exit: Exit | None
    command_digest: str
    command: str = ""
    ending: bool = False


@dataclass(frozen=True, slots=True)
class Flags:
    """What the user said about it."""

    resume: bool = False
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class FreshStart:
    """Start anew; ``note`` says why in one sentence, empty if that goes without saying."""

    note: str = ""


@dataclass(frozen=True, slots=True)
class ResumeFrom:
    """Go on from the newest good checkpoint."""

    note: str = ""


@dataclass(frozen=True, slots=True)
class EndOnly:
    """The job has ended well: do only what was to follow that."""

    note: str = ""


Plan: TypeAlias = FreshStart | ResumeFrom | EndOnly


@dataclass(frozen=True, slots=True)
class Situation:
    """All that the table looks at."""

    name: str
    last: LastRun | None
    command_digest: str
    changed_files: tuple[str, ...]
    has_checkpoints: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One row: a condition, and what the same command again does.

    Args:
        title: DESIGN's words.
        applies: the condition.
        plan: what happens; None refuses.
        cause: for a refusal: the thing and the cause.
        hint: for a refusal: the ways out.
        resumable: whether ``--resume`` settles it.
    """

    title: str
    applies: Callable[[Situation], bool]
    plan: Callable[[Situation], Plan] | None = None
    cause: Callable[[Situation], str] | None = None
    hint: str = ""
    resumable: bool = True


def _last(situation: Situation) -> LastRun:
    assert situation.last is not None
    return situation.last


def _why_failed(situation: Situation) -> str:
    end = _last(situation).exit
    code = "" if end is None else f" (exit code {end.code}, {'the job' if end.by == 'job' else 'ckptrun'}'s)"
    return f"the last run of lineage {situation.name!r} failed{code}"


def _was_lost(last: LastRun) -> bool:
    """Whether the last run ended because what it should have gone on from was no good: its work would go unnoticed."""
    return (
        last.state is RunState.FAILED
        and last.exit is not None
        and last.exit == Exit("ckptrun", NO_CHECKPOINT)
    )


def _what_changed(situation: Situation) -> str:
    files = ", ".join(repr(f) for f in situation.changed_files)
    which = (
        "a file named in the command" if len(situation.changed_files) == 1 else "files named in the command"
    )
    return f"{which} changed since the newest checkpoint of lineage {situation.name!r}: {files}"


def _other_command(situation: Situation) -> str:
    ran = _last(situation).command
    what = f": {ran}" if ran else ""
    return f"lineage {situation.name!r} belongs to another command{what}"


_EITHER = "pass --resume to go on from the newest checkpoint, or --fresh to start anew"

TABLE = (
    Row("none", lambda s: s.last is None, plan=lambda _: FreshStart()),
    Row(
        "another command under this name",
        lambda s: _last(s).command_digest != s.command_digest,
        cause=_other_command,
        hint="choose another --name for this one, or pass --fresh to replace it",
        resumable=False,
    ),
    Row(
        "ended with exit 0, but ckptrun was killed before it had seen to the rest",
        lambda s: _last(s).ending,
        plan=lambda s: EndOnly(
            f"the job of lineage {s.name!r} had ended well when ckptrun was killed; it is not run again, "
            "what follows its end is done now"
        ),
        resumable=False,
    ),
    Row("ended with exit 0", lambda s: _last(s).state is RunState.FINISHED, plan=lambda _: FreshStart()),
    Row(
        "none of its checkpoints could be restored",
        lambda s: not s.has_checkpoints and _was_lost(_last(s)),
        cause=lambda s: f"none of the checkpoints of lineage {s.name!r} could be restored",
        hint="pass --fresh to start anew",
        resumable=False,
    ),
    Row(
        "no checkpoint",
        lambda s: not s.has_checkpoints,
        plan=lambda s: FreshStart(f"the last run of lineage {s.name!r} left no checkpoint; starting anew"),
    ),
    Row(
        "failed (ckptrun gave up)",
        lambda s: _last(s).state is RunState.FAILED,
        cause=_why_failed,
        hint=_EITHER,
    ),
    Row(
        "a file named in the command changed",
        lambda s: bool(s.changed_files),
        cause=_what_changed,
        hint=_EITHER,
    ),
    Row(
        "interrupted",
        lambda s: _last(s).state in (RunState.INTERRUPTED, RunState.RUNNING),
        plan=lambda s: ResumeFrom(
            f"the last run of lineage {s.name!r} was interrupted; going on from its checkpoint"
        ),
    ),
)


def decide(situation: Situation, flags: Flags) -> Plan:
    """Return what running the same command again does.

    Raises:
        ChoiceNeededError: the table refuses and no flag settles it.
        UsageError: ``--resume`` and ``--fresh`` at once.
    """
    if flags.resume and flags.fresh:
        raise UsageError("--resume and --fresh exclude each other", hint="pass one of them")
    if flags.fresh:
        return FreshStart()
    row = next(row for row in TABLE if row.applies(situation))
    if flags.resume and row.resumable and situation.has_checkpoints:
        return ResumeFrom()
    if row.plan is not None:
        return row.plan(situation)
    assert row.cause is not None
    raise ChoiceNeededError(row.cause(situation), hint=row.hint)
