"""The modes ``delete``, ``move`` and ``mark``: rows put in after a checkpoint, known by a column that grows.

Nothing is installed. Updates and deletions are not undone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import sql

from ckptrun.hooking.program import HookFailedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg
    from tables import Table

    from ckptrun.hooking.program import Context

SUFFIX = "_rewound"
_TIMES = ("timestamp with time zone", "timestamp without time zone")


def prepare(connection: psycopg.Connection[Any], tables: Sequence[Table], mode: str, mark: str) -> None:
    """See that what the mode needs is there; make the side tables that rows are moved to.

    Raises:
        HookFailedError: a table has no declared column, or none to mark its rows in.
    """
    for table in tables:
        if table.key is None:
            raise HookFailedError(
                f"mode={mode} knows later rows by a column that grows with each, and {table.said} has none declared:"
                f" write tables={table.said}:id, or use mode=undo"
            )
        if mode == "mark" and (found := table.column(mark), found and found.type)[1] not in _TIMES:
            raise HookFailedError(
                f"table {table.said} has no column {mark!r} of type timestamptz to mark rows in:"
                f" ALTER TABLE {table.said} ADD COLUMN {mark} timestamptz"
            )
        if mode == "move":
            connection.execute(
                sql.SQL(
                    "CREATE TABLE IF NOT EXISTS {side} AS SELECT t.*, ''::text AS ckptrun_lineage,"
                    " ''::text AS ckptrun_checkpoint, now() AS ckptrun_moved FROM {table} AS t WITH NO DATA"
                ).format(side=_side(table), table=table.sql)
            )


def note(connection: psycopg.Connection[Any], tables: Sequence[Table]) -> dict[str, str | None]:
    """Return the highest value of each table's declared column, as text; None where the table is empty."""
    found: dict[str, str | None] = {}
    for table in tables:
        row = connection.execute(
            sql.SQL("SELECT max({key})::text FROM {table}").format(
                key=sql.Identifier(str(table.key)), table=table.sql
            )
        ).fetchone()
        found[table.said] = row and row[0]
    return found


def undo(
    connection: psycopg.Connection[Any],
    context: Context,
    tables: Sequence[Table],
    mode: str,
    mark: str,
    noted: dict[str, str | None],
) -> dict[str, dict[str, int]]:
    """Delete, move or mark what came after; the tables are declared parents first, so children go first."""
    counts = {}
    for table in reversed(tables):
        if table.said not in noted:
            raise HookFailedError(
                f"checkpoint {context.checkpoint} was taken before {table.said} was declared:"
                " nobody knows which of its rows came later; leave it out of option tables for this restore"
            )
        counts[table.said] = {"undone": _undo(connection, context, table, mode, mark, noted[table.said])}
    return counts


def _undo(
    connection: psycopg.Connection[Any],
    context: Context,
    table: Table,
    mode: str,
    mark: str,
    highest: str | None,
) -> int:
    column = table.column(str(table.key))
    assert column is not None
    later = sql.SQL("%(highest)s::text IS NULL OR {} > %(highest)s::{}").format(
        sql.Identifier(column.name), sql.SQL(column.type)
    )
    values = {"highest": highest, "lineage": context.lineage, "checkpoint": context.checkpoint}
    if mode == "delete":
        statement = sql.SQL("DELETE FROM {table} WHERE {later}").format(table=table.sql, later=later)
    elif mode == "mark":
        statement = sql.SQL("UPDATE {table} SET {mark} = now() WHERE {mark} IS NULL AND ({later})").format(
            table=table.sql, mark=sql.Identifier(mark), later=later
        )
    else:
        listed = sql.SQL(", ").join(sql.Identifier(one.name) for one in table.columns)
        statement = sql.SQL(
            "WITH gone AS (DELETE FROM {table} WHERE {later} RETURNING *)"
            " INSERT INTO {side} ({listed}, ckptrun_lineage, ckptrun_checkpoint, ckptrun_moved)"
            " SELECT {listed}, %(lineage)s, %(checkpoint)s, now() FROM gone"
        ).format(table=table.sql, later=later, side=_side(table), listed=listed)
    return connection.execute(statement, values).rowcount


def _side(table: Table) -> sql.Identifier:
    return sql.Identifier(table.schema, table.name + SUFFIX)
