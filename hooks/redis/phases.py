"""What the redis hook does in each phase."""

from __future__ import annotations

from typing import TYPE_CHECKING

import redis
from server import Server, Settings

from ckptrun.hooking.program import Answer, Context, HookFailedError, TryAgainError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

AGAIN_SECONDS = 2.0


def run(context: Context) -> Answer:
    """Do the phase that the context names.

    Raises:
        HookFailedError: it cannot be done.
        TryAgainError: it cannot be done now.
    """
    act = would if context.dry_run and context.phase != "pre-restore" else _PHASES[context.phase]
    try:
        return act(context, Settings.of(context))
    except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        raise HookFailedError(f"Redis: {error}; the hook's README says which rights it needs") from None
    except (redis.ConnectionError, redis.TimeoutError) as error:
        if context.phase in {"post-commit", "on-exit"}:  # nothing hangs on these
            raise HookFailedError(f"Redis: {error}") from None
        raise TryAgainError(f"Redis: {error}", AGAIN_SECONDS) from None
    except redis.RedisError as error:
        raise HookFailedError(f"Redis: {error}") from None


def would(context: Context, settings: Settings) -> Answer:
    """Look, and write nothing: say what a phase would do."""
    server = Server(context, settings)
    if context.phase != "pre-checkpoint":
        return {}
    keys, size = server.look()
    held = f", and keep writers out for up to {settings.hold:g} s" if settings.hold else ""
    return {"reason": f"would note positions and {keys} keys of {size} bytes{held}"}


def pre_checkpoint(context: Context, settings: Settings) -> Answer:
    """Note where everything stands, and keep writers out."""
    fingerprint, keys, size = Server(context, settings).capture()
    return {"data": {"fingerprint": fingerprint, "keys": keys, "bytes": size}, "done": ["noted"]}


def post_checkpoint(context: Context, settings: Settings) -> Answer:
    """Let writers in again, and see that there was none."""
    server = Server(context, settings)
    try:
        held = server.fingerprint() == (context.data or {}).get("fingerprint")
    finally:
        if settings.hold:
            server.release()
    if not context.closing():
        server.forget(only=context.checkpoint)
        return {"done": ["released"]}
    if held or not settings.hold:
        return {"done": ["released"], "data": {"held": held}}
    reason = (
        f"somebody wrote before checkpoint {context.checkpoint} was complete, so that it may not tell exactly what"
        f" came after it; if it takes longer than {settings.hold:g} s, raise option hold"
    )
    event = {"event": "redis-inexact", "checkpoint": context.checkpoint, "reason": reason}
    return {"outcome": "failed", "reason": reason, "events": [event], "data": {"held": False}}


def post_commit(context: Context, settings: Settings) -> Answer:
    """Forget checkpoints that are too old."""
    Server(context, settings).forget(keep=settings.keep)
    return {"done": ["trimmed"]}


def pre_restore(context: Context, settings: Settings) -> Answer:
    """Bring everything back to the checkpoint."""
    if context.data is None:
        raise HookFailedError(
            f"checkpoint {context.checkpoint} was taken without this hook: nobody knows what came after it."
            " Resume once with policy=ignore, and all stays as it is"
        )
    server = Server(context, settings)
    if (
        settings.hold and not context.dry_run
    ):  # a checkpoint that was cut off with ckptrun itself may still hold
        server.release()
    counts = server.rewind()
    parts = [
        f"{name}: {' and '.join(f'{n} {what}' for what, n in sorted(count.items()))}"
        for name, count in sorted(counts.items())
    ]
    lost = any(count.get("lost") for count in counts.values())
    event = {
        "event": "redis-undone",
        "checkpoint": context.checkpoint,
        "counts": counts,
        "mode": settings.mode,
        "dry_run": context.dry_run,
        "exact": bool(context.data.get("held")) and not lost,
    }
    would = "would be: " if context.dry_run and parts else ""
    return {"done": ["undone"], "reason": would + ("; ".join(parts) or "nothing to undo"), "events": [event]}


def on_exit(context: Context, settings: Settings) -> Answer:
    """After a run that is complete, leave nothing behind."""
    if (context.exit or {}).get("code") != 0:
        return {"done": ["kept"]}
    Server(context, settings).forget()
    return {"done": ["forgotten"]}


_PHASES: Mapping[str, Callable[[Context, Settings], Answer]] = {
    "pre-checkpoint": pre_checkpoint,
    "post-checkpoint": post_checkpoint,
    "post-commit": post_commit,
    "pre-restore": pre_restore,
    "on-exit": on_exit,
}
