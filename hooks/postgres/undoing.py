"""The mode ``undo``: every change of the declared tables is kept, and taken back by a restore."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import history
import lineages
import marking
import reversing
from settings import NAME
from tables import HOLDER, Table, blockers, lock, set_local

from ckptrun.hooking.program import Context, HookFailedError, TryAgainError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import psycopg
    from settings import Settings

GRACE_SECONDS = 2.0
"""What a transaction that outlived the job is given to end by itself."""


def check(tables: Sequence[Table]) -> None:
    """See that the tables can be watched.

    Raises:
        HookFailedError: one has no primary key, or is somebody else's.
    """
    for table in tables:
        if not table.primary:
            raise HookFailedError(
                f"table {table.said} has no primary key, by which mode=undo finds its rows again: add one,"
                f" or use mode=delete with a column that grows (tables={table.said}:created_at)"
            )
        if not table.owned:
            raise HookFailedError(
                f"mode=undo must own table {table.said} to watch it: use a dsn whose role owns it"
                " (or is a member of the owner), or mode=delete"
            )


def prepare(
    connection: psycopg.Connection[Any],
    context: Context,
    settings: Settings,
    tables: Sequence[Table],
    deadline: float,
) -> list[dict[str, Any]]:
    """Make what is missing for the history; return what is to be said about it."""
    check(tables)
    complete = history.installed(connection, tables)
    if not complete:
        history.make_schema(connection)
    with connection.transaction():
        lineages.claim(connection, context, tables, settings.role, settings.application)
        if complete:
            return []
        lock(connection, tables, "SHARE ROW EXCLUSIVE", deadline)
        made = history.make_triggers(connection, tables)
    events: list[dict[str, Any]] = [{"event": "postgres-watching", "tables": made}]
    if others := lineages.undeclared(connection, tables):
        events.append(
            {
                "event": "postgres-undeclared",
                "tables": others,
                "reason": "changes that cascade to these tables cannot be undone: declare them too",
            }
        )
    return events


def position(connection: psycopg.Connection[Any], tables: Sequence[Table]) -> dict[str, Any]:
    """Return where the tables stand, while nobody can write to them.

    Raises:
        TryAgainError: their triggers have gone this very moment.
    """
    pictures = {table.said: _picture(connection, table) for table in tables}
    for said, picture in pictures.items():
        if len(picture["triggers"]) != 2:
            raise TryAgainError(f"the triggers on {said} were removed while the checkpoint began", 1.0)
    return {"seq": history.last(connection), "tables": pictures}


def undo(
    connection: psycopg.Connection[Any],
    context: Context,
    settings: Settings,
    tables: Sequence[Table],
    data: Mapping[str, Any],
    deadline: float,
) -> dict[str, dict[str, int]]:
    """Undo what came after a checkpoint, in the open transaction, and return counts by table.

    Args:
        connection: in a transaction.
        context: of pre-restore.
        settings: the options.
        tables: the declared ones.
        data: what `position` and the modes have noted.
        deadline: of `time.monotonic`.

    Raises:
        HookFailedError: that is not known any more.
        TryAgainError: others hold the tables.
    """
    since = time.monotonic()

    def blocked() -> None:
        if time.monotonic() - since >= GRACE_SECONDS:
            for one in blockers(connection, tables):
                _end_backend(connection, settings, one)

    if settings.mode != "undo":
        lock(connection, tables, "SHARE ROW EXCLUSIVE", deadline, None if context.dry_run else blocked)
        set_local(connection, "statement_timeout", _milliseconds(deadline))
        return marking.undo(connection, context, tables, settings.mode, settings.mark, data["highest"])
    lineages.claim(connection, context, tables, settings.role, settings.application)
    lineages.go_back(connection, context, data["seq"])
    # a foreign key cannot be told to wait while anybody reads its tables
    mode = "ACCESS EXCLUSIVE" if reversing.keys_between(connection, tables) else "SHARE ROW EXCLUSIVE"
    lock(connection, tables, mode, deadline, None if context.dry_run else blocked)
    for table in tables:
        _compare(context, table, data["tables"].get(table.said), _picture(connection, table))
    set_local(connection, "statement_timeout", _milliseconds(deadline))
    history.settings(connection)
    counts = reversing.undo(connection, tables, data["seq"], settings.role, settings.application)
    if not settings.role and not settings.application:
        for table in tables:
            if not counts[table.said]["kept"]:
                history.set_sequences(connection, data["tables"][table.said]["sequences"])
    return counts


def end_leftovers(connection: psycopg.Connection[Any], settings: Settings) -> None:
    """End connections of the job's that outlived it, where they have a name."""
    if settings.application:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = %s AND (%s::text IS NULL OR usename = %s) AND pid <> pg_backend_pid()",
            [settings.application, settings.role, settings.role],
        )


def _picture(connection: psycopg.Connection[Any], table: Table) -> dict[str, Any]:
    return {
        "oid": table.oid,
        "columns": table.signature,
        "triggers": history.triggers(connection, table),
        "sequences": history.sequences(connection, table),
    }


def _compare(context: Context, table: Table, then: Mapping[str, Any] | None, now: Mapping[str, Any]) -> None:
    if then is None:
        what = "was not declared"
    elif then["oid"] != now["oid"]:
        what = "was another table of the same name"
    elif then["columns"] != now["columns"]:
        what = "had other columns"
    elif then["triggers"] != now["triggers"]:
        what = "had its triggers, which have been removed or turned off since, so that changes are missing"
    else:
        return
    raise HookFailedError(
        f"at checkpoint {context.checkpoint} {table.said} {what}: what came after it cannot be undone."
        " Put the tables right by hand and resume once with policy=ignore"
    )


def _end_backend(connection: psycopg.Connection[Any], settings: Settings, one: Mapping[str, Any]) -> None:
    mine = settings.role in (None, one["role"]) and settings.application in (None, one["application"])
    if one["pid"] and mine and one["application"] != NAME and not one["application"].startswith(HOLDER):
        connection.execute("SELECT pg_terminate_backend(%s, 5000)", [one["pid"]])


def _milliseconds(deadline: float) -> str:
    return f"{max(1, int((deadline - time.monotonic()) * 1000))}ms"
