"""What the redis hook does in each phase."""

from __future__ import annotations

from typing import TYPE_CHECKING

import redis
from server import Server, Settings

from ckptrun.hooking import stores
from ckptrun.hooking.program import Answer, Context, HookFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def run(context: Context) -> Answer:
    """Do the phase that the context names.

    Raises:
        HookFailedError: it cannot be done.
        TryAgainError: it cannot be done now.
    """
    try:
        return stores.chosen(context, _PHASES, would)(context, Settings.of(context))
    except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        raise HookFailedError(f"Redis: {error}; the hook's README says which rights it needs") from None
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise stores.unreachable(context, f"Redis: {error}") from None
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
    return {"data": {"fingerprint": fingerprint, "keys": keys, "bytes": size}, "done": [stores.NOTED]}


def post_checkpoint(context: Context, settings: Settings) -> Answer:
    """Let writers in again, and see that there was none."""
    server = Server(context, settings)
    try:
        held = server.fingerprint() == (context.data or {}).get("fingerprint")
    finally:
        if settings.hold:
            server.release()
    if not context.closing():
        server.forget([context.checkpoint or ""])
        return {"done": [stores.RELEASED]}
    if not settings.hold:
        return {"done": [stores.RELEASED], "data": {"held": held}}
    return stores.released(context, "redis", "somebody wrote", settings.hold, held=held)


def post_commit(context: Context, settings: Settings) -> Answer:
    """Forget what no checkpoint needs any more."""
    server = Server(context, settings)
    server.forget(context.forgettable(server.noted()))
    return {"done": [stores.TRIMMED]}


def pre_restore(context: Context, settings: Settings) -> Answer:
    """Bring everything back to the checkpoint."""
    data = stores.noted(context, "all stays")
    server = Server(context, settings)
    if (
        settings.hold and not context.dry_run
    ):  # a checkpoint that was cut off with ckptrun itself may still hold
        server.release()
    counts = dict(sorted(server.rewind().items()))
    exact = bool(data.get("held")) and not any(count.get("lost") for count in counts.values())
    return stores.undone(context, "redis", "counts", counts, mode=settings.mode, exact=exact)


def on_exit(context: Context, settings: Settings) -> Answer:
    """After a run that is complete, leave nothing behind."""
    if not context.complete():
        return {"done": [stores.KEPT]}
    Server(context, settings).forget_all()
    return {"done": [stores.FORGOTTEN]}


_PHASES: Mapping[str, Callable[[Context, Settings], Answer]] = {
    "pre-checkpoint": pre_checkpoint,
    "post-checkpoint": post_checkpoint,
    "post-commit": post_commit,
    "pre-restore": pre_restore,
    "on-exit": on_exit,
}
