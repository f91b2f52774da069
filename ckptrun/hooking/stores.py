"""What the ready-made hooks share that bring a store of the job's back to a checkpoint: ``postgres`` and ``redis``.

Such a hook notes where the store stands and keeps writers out until the thaw, so that nothing comes between the note
and the freeze; it forgets what no checkpoint needs any more, and undoes what came after the one that is restored. How
the store does that is the hook's; what is refused, tried again and told is the same for all, and here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from ckptrun.hooking.program import Answer, Context, HookFailedError, TryAgainError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

AGAIN_SECONDS = 2.0
NOTED, RELEASED, TRIMMED, UNDONE, KEPT, FORGOTTEN = (
    "noted",
    "released",
    "trimmed",
    "undone",
    "kept",
    "forgotten",
)
"""What ``done`` names."""
_NOTHING_HANGS = frozenset({"post-commit", "on-exit"})

Counts: TypeAlias = "Mapping[str, Mapping[str, int]]"
"""By name of what is declared, and by what became of it: how many."""
_Settings = TypeVar("_Settings")


def chosen(
    context: Context,
    phases: Mapping[str, Callable[[Context, _Settings], Answer]],
    look: Callable[[Context, _Settings], Answer],
) -> Callable[[Context, _Settings], Answer]:
    """Return what does this phase; where nothing is to be changed, what only looks.

    Args:
        context: the phase's.
        phases: what does each.
        look: says what would be done. A restore's dry run is the undo's own business, which counts what it would do.
    """
    return look if context.dry_run and context.phase != "pre-restore" else phases[context.phase]


def unreachable(context: Context, why: str) -> Exception:
    """Return the error for a store that does not answer: it is waited for, where something hangs on it."""
    if context.phase in _NOTHING_HANGS:
        return HookFailedError(why)
    return TryAgainError(why, AGAIN_SECONDS)


def noted(context: Context, what: str) -> dict[str, Any]:
    """Return what was noted for the checkpoint that is restored.

    Args:
        context: of pre-restore.
        what: stays as it is without the hook, such as ``the tables``, with its verb.

    Raises:
        HookFailedError: it was taken without the hook.
    """
    if context.data is None:
        raise HookFailedError(
            f"checkpoint {context.checkpoint} was taken without this hook: nobody knows what came after it."
            f" Resume once with policy=ignore, and {what} as before"
        )
    return context.data


def released(context: Context, store: str, lost: str, hold: float, *, held: bool) -> Answer:
    """Return the answer to the thaw of a dump that went well.

    Args:
        context: of post-checkpoint.
        store: names the event.
        lost: what has happened, as a clause, if writers were not kept out all the time.
        hold: seconds that they could be.
        held: whether they were; remembered with the checkpoint.
    """
    if held:
        return {"done": [RELEASED], "data": {"held": True}}
    reason = (
        f"{lost} before checkpoint {context.checkpoint} was complete, so that it may not tell exactly what came"
        f" after it; if it takes longer than {hold:g} s, raise option hold"
    )
    event = {"event": f"{store}-inexact", "checkpoint": context.checkpoint, "reason": reason}
    return {"outcome": "failed", "reason": reason, "events": [event], "data": {"held": False}}


def undone(context: Context, store: str, what: str, counts: Counts, *, mode: str, exact: bool) -> Answer:
    """Return the answer of an undo that is through.

    Args:
        context: of pre-restore.
        store: names the event.
        what: names the counts in it.
        counts: see `Counts`.
        mode: of the undo.
        exact: whether the store is now as it was at the checkpoint.
    """
    parts = [
        f"{name}: {' and '.join(f'{n} {became}' for became, n in sorted(count.items()) if n)}"
        for name, count in counts.items()
        if any(count.values())
    ]
    would = "would be: " if context.dry_run and parts else ""
    event = {"event": f"{store}-undone", "checkpoint": context.checkpoint, what: counts, "mode": mode}
    return {
        "done": [UNDONE],
        "reason": would + ("; ".join(parts) or "nothing to undo"),
        "events": [{**event, "dry_run": context.dry_run, "exact": exact}],
    }
