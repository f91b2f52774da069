"""What the postgres hook does in each phase."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import holder
import lineages
import marking
import psycopg
import undoing
from settings import REPLY_SECONDS, Settings
from tables import find, first_line, lock, set_local

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
    except psycopg.errors.InsufficientPrivilege as error:
        raise HookFailedError(f"{first_line(error)}; the hook's README says which rights it needs") from None
    except psycopg.errors.QueryCanceled:  # by the time we set ourselves
        raise HookFailedError(
            f"what is to be done in {context.phase} takes longer than the hook's time: raise its option timeout,"
            " such as timeout=10m"
        ) from None
    except psycopg.OperationalError as error:
        raise stores.unreachable(context, f"PostgreSQL: {first_line(error)}") from None
    except psycopg.Error as error:
        raise HookFailedError(f"PostgreSQL: {first_line(error)}") from None


def would(context: Context, settings: Settings) -> Answer:
    """Look, and leave nothing behind: say what a phase would do."""
    with settings.connect() as connection, connection.transaction(force_rollback=True):
        if context.phase != "pre-checkpoint":
            return {}
        tables = find(connection, settings.tables)
        if settings.mode == "undo":
            undoing.check(tables)
        else:
            marking.prepare(connection, tables, settings.mode, settings.mark)
    said = ", ".join(table.said for table in tables)
    return {"reason": f"would keep writers out of {said} until the checkpoint is taken"}


def pre_checkpoint(context: Context, settings: Settings) -> Answer:
    """Keep writers out, and note where the tables stand."""
    deadline = settings.until(context)
    events: list[dict[str, Any]] = []
    with settings.connect() as connection:
        holder.end(connection, context.lineage)
        tables = find(connection, settings.tables)
        if settings.mode == "undo":
            events = undoing.prepare(connection, context, settings, tables, deadline)
        else:
            marking.prepare(connection, tables, settings.mode, settings.mark)
        holding = settings.connect(holder.name(context.lineage))
        holding.execute("BEGIN")
        # no later than this does the server end it, whatever became of us
        set_local(holding, "idle_in_transaction_session_timeout", f"{int(settings.hold * 1000)}ms")
        lock(holding, tables, "SHARE", deadline)
        data: dict[str, Any] = {"mode": settings.mode, "holder": holding.info.backend_pid}
        if settings.mode == "undo":
            data |= undoing.position(holding, tables)
            lineages.note(connection, context, tables, data["seq"])
        else:
            data["highest"] = marking.note(holding, tables)
    holder.leave(holding, settings.hold)
    return {"data": data, "done": [stores.NOTED], "events": events}


def post_checkpoint(context: Context, settings: Settings) -> Answer:
    """Let writers in again."""
    data = context.data or {}
    with settings.connect() as connection:
        held = holder.end(connection, context.lineage, data.get("holder"))
        if not context.closing():
            if data.get("mode") == "undo":
                lineages.drop(connection, context)
            return {"done": [stores.RELEASED]}
    return stores.released(context, "postgres", "the tables' locks were lost", settings.hold, held=held)


def post_commit(context: Context, settings: Settings) -> Answer:
    """Forget the history that no checkpoint needs any more."""
    if settings.mode == "undo":
        with settings.connect() as connection:
            lineages.trim(connection, context)
    return {"done": [stores.TRIMMED]}


def pre_restore(context: Context, settings: Settings) -> Answer:
    """Undo what came after the checkpoint."""
    data = stores.noted(context, "the tables stay")
    if data.get("mode") != settings.mode:
        raise HookFailedError(
            f"checkpoint {context.checkpoint} was taken with mode={data.get('mode')}, and option mode is"
            f" {settings.mode}: restore with that mode, and change it once the run has a newer checkpoint"
        )
    deadline = context.deadline - REPLY_SECONDS
    with settings.connect() as connection:
        if not context.dry_run:
            holder.end(connection, context.lineage)
            undoing.end_leftovers(connection, settings)
        with connection.transaction(force_rollback=context.dry_run):
            tables = find(connection, settings.tables)
            counts = undoing.undo(connection, context, settings, tables, data, deadline)
    exact = bool(data.get("held"))
    return stores.undone(context, "postgres", "tables", counts, mode=settings.mode, exact=exact)


def on_exit(context: Context, settings: Settings) -> Answer:
    """After a run that is complete, leave nothing behind."""
    if settings.mode != "undo" or not context.complete():
        return {"done": [stores.KEPT]}
    with settings.connect() as connection:
        row = connection.execute("SELECT to_regclass('ckptrun.lineages') IS NOT NULL").fetchone()
        if row and row[0]:
            lineages.forget(connection, context.lineage, settings.until(context))
    return {"done": [stores.FORGOTTEN]}


_PHASES: Mapping[str, Callable[[Context, Settings], Answer]] = {
    "pre-checkpoint": pre_checkpoint,
    "post-checkpoint": post_checkpoint,
    "post-commit": post_commit,
    "pre-restore": pre_restore,
    "on-exit": on_exit,
}
