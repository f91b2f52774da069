"""The undo of the declared tables' changes: their history, read backwards.

The changes are undone newest first, so that every state on the way is one that the tables have had. The exception is
what one statement did to several rows, as by ON DELETE CASCADE or a TRUNCATE of two tables: foreign keys between the
tables are therefore checked at the end.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import psycopg
    from tables import Table

BATCH = 500
"""Statements sent before their answers are read."""

_OPEN = sql.SQL(
    "settled IS NULL AND (%(role)s::text IS NULL OR role = %(role)s)"
    " AND (%(application)s::text IS NULL OR application = %(application)s)"
)
_ENABLE = {"O": "ENABLE TRIGGER", "R": "ENABLE REPLICA TRIGGER", "A": "ENABLE ALWAYS TRIGGER"}


def undo(
    connection: psycopg.Connection[Any],
    tables: Sequence[Table],
    seq: int,
    role: str | None,
    application: str | None,
) -> dict[str, dict[str, int]]:
    """Take back what came after `seq`, in the open transaction that has the tables locked.

    Args:
        connection: in a transaction that has these `settings`.
        tables: the declared ones.
        seq: the checkpoint's position.
        role: of the logins whose changes are undone; None: any.
        application: application_name of the connections whose changes are undone; None: any.

    Returns:
        By table: how many changes were ``undone`` and how many ``kept``, because another had changed the row since.
    """
    whose = {"role": role, "application": application}
    by_oid = {table.oid: table for table in tables}
    counts = {table.said: {"undone": 0, "kept": 0} for table in tables}
    was = [(table, _users_triggers(connection, table)) for table in tables]
    for one, states in was:
        for name, _ in states:
            connection.execute(
                sql.SQL("ALTER TABLE {} DISABLE TRIGGER {}").format(one.sql, sql.Identifier(name))
            )
    late = keys_between(connection, tables)
    for table, constraint in late:
        statement = sql.SQL("ALTER TABLE {} ALTER CONSTRAINT {} DEFERRABLE")
        connection.execute(statement.format(table, constraint))
    connection.execute("SET CONSTRAINTS ALL DEFERRED")
    for one, op, spans in _batches(connection, by_oid, seq, whose):
        statement = _REVERSE[op](one)
        with connection.pipeline():
            sent = [
                connection.execute(statement, {"oid": one.oid, "low": low, "high": high, **whose})
                for low, high, _ in spans
            ]
        kept = sum(cursor.rowcount for cursor in sent)
        counts[one.said]["kept"] += kept
        counts[one.said]["undone"] += sum(count for _, _, count in spans) - kept
    connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
    for table, constraint in late:
        statement = sql.SQL("ALTER TABLE {} ALTER CONSTRAINT {} NOT DEFERRABLE")
        connection.execute(statement.format(table, constraint))
    for one, states in was:
        for name, state in states:
            enable = sql.SQL("ALTER TABLE {} " + _ENABLE[state] + " {}")
            connection.execute(enable.format(one.sql, sql.Identifier(name)))
    connection.execute(
        sql.SQL(
            "UPDATE ckptrun.history SET settled = now(), outcome = 'undone'"
            " WHERE relation = ANY(%(tables)s) AND seq > %(seq)s AND {}"
        ).format(_OPEN),
        {"tables": list(by_oid), "seq": seq, **whose},
    )
    return counts


def keys_between(
    connection: psycopg.Connection[Any], tables: Sequence[Table]
) -> list[tuple[sql.Identifier, sql.Identifier]]:
    """Return table and name of the foreign keys between the tables that are checked at once."""
    rows = connection.execute(
        "SELECT n.nspname, t.relname, c.conname FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid"
        " JOIN pg_namespace n ON n.oid = t.relnamespace WHERE c.contype = 'f' AND NOT c.condeferrable"
        " AND c.conrelid = ANY(%(oids)s) AND c.confrelid = ANY(%(oids)s)",
        {"oids": [table.oid for table in tables]},
    )
    return [(sql.Identifier(schema, table), sql.Identifier(name)) for schema, table, name in rows]


def _batches(
    connection: psycopg.Connection[Any], tables: dict[int, Table], seq: int, whose: dict[str, str | None]
) -> Iterator[tuple[Table, str, list[tuple[int, int, int]]]]:
    """Yield what is to be undone, newest first, each as lowest and highest number and count.

    A stretch is insertions into one table, or deletions from it, that follow one another; an update stands alone.
    Stretches of one table and kind that follow one another come together.
    """
    stretches = connection.execute(
        sql.SQL(
            "SELECT relation::int8, op::text, min(seq), max(seq), count(*) FROM ("
            " SELECT relation, op, seq, sum(begins) OVER (ORDER BY seq DESC) AS stretch FROM ("
            "  SELECT relation, op, seq, CASE WHEN op = 'U' OR lag(relation) OVER w IS DISTINCT FROM relation"
            "   OR lag(op) OVER w IS DISTINCT FROM op THEN 1 ELSE 0 END AS begins"
            "  FROM ckptrun.history WHERE relation = ANY(%(tables)s) AND seq > %(seq)s AND {}"
            "  WINDOW w AS (ORDER BY seq DESC)) s) g GROUP BY relation, op, stretch ORDER BY stretch"
        ).format(_OPEN),
        {"tables": list(tables), "seq": seq, **whose},
    ).fetchall()
    for (relation, op), group in itertools.groupby(stretches, key=lambda row: (row[0], row[1])):
        spans = [(low, high, count) for _, _, low, high, count in group]
        for start in range(0, len(spans), BATCH):
            yield tables[relation], op, spans[start : start + BATCH]


def _reverse_insertions(table: Table) -> sql.Composed:
    """Return the statement that removes rows that are still as they were put in; it marks the others as kept."""
    return sql.SQL(
        "WITH e AS MATERIALIZED (SELECT seq, new::{table} AS r, new AS image FROM {entries}),"
        " gone AS (DELETE FROM {table} AS cr USING e WHERE {same} AND (cr.*)::text = e.image)"
        " UPDATE ckptrun.history SET settled = now(), outcome = 'kept' WHERE seq IN"
        " (SELECT e.seq FROM e JOIN {table} AS cr ON {same} WHERE (cr.*)::text <> e.image)"
    ).format(table=table.sql, entries=_entries("I"), same=_same(table, "r"))


def _reverse_deletions(table: Table) -> sql.Composed:
    """Return the statement that puts rows back where there is none of their key."""
    columns = [sql.Identifier(column.name) for column in table.columns if column.insertable]
    listed = sql.SQL(", ").join(columns)
    values = sql.SQL(", ").join(sql.SQL("(e.r).{}").format(column) for column in columns)
    primary = [sql.Identifier(name) for name in table.primary]
    same_back = sql.SQL(" AND ").join(sql.SQL("back.{0} = (e.r).{0}").format(name) for name in primary)
    # a constraint that is checked late cannot take part in ON CONFLICT
    free = sql.SQL("" if table.deferrable else " ON CONFLICT DO NOTHING")
    return sql.SQL(
        "WITH e AS MATERIALIZED (SELECT seq, old::{table} AS r, old AS image FROM {entries}),"
        " back AS (INSERT INTO {table} ({listed}) OVERRIDING SYSTEM VALUE SELECT {values} FROM e"
        "  WHERE NOT EXISTS (SELECT FROM {table} AS cr WHERE {same}) ORDER BY e.seq DESC{free} RETURNING {primary})"
        " UPDATE ckptrun.history SET settled = now(), outcome = 'kept' WHERE seq IN (SELECT e.seq FROM e"
        "  WHERE NOT EXISTS (SELECT FROM back WHERE {same_back})"
        "  AND NOT EXISTS (SELECT FROM {table} AS cr WHERE {same} AND (cr.*)::text = e.image))"
    ).format(
        table=table.sql,
        entries=_entries("D"),
        same=_same(table, "r"),
        listed=listed,
        values=values,
        free=free,
        primary=sql.SQL(", ").join(primary),
        same_back=same_back,
    )


def _reverse_updates(table: Table) -> sql.Composed:
    """Return the statement that gives a row its old values back if it still has the new ones."""
    columns = [sql.Identifier(column.name) for column in table.columns if column.settable]
    changes = sql.SQL(", ").join(sql.SQL("{0} = (e.o).{0}").format(column) for column in columns)
    return sql.SQL(
        "WITH e AS MATERIALIZED (SELECT seq, old::{table} AS o, new::{table} AS n, old AS was, new AS image"
        "  FROM {entries}),"
        " back AS (UPDATE {table} AS cr SET {changes} FROM e WHERE {same_new} AND (cr.*)::text = e.image RETURNING 1)"
        " UPDATE ckptrun.history SET settled = now(), outcome = 'kept' WHERE seq IN (SELECT e.seq FROM e"
        "  WHERE NOT EXISTS (SELECT FROM back)"
        "  AND NOT EXISTS (SELECT FROM {table} AS cr WHERE {same_old} AND (cr.*)::text = e.was))"
    ).format(
        table=table.sql,
        entries=_entries("U"),
        changes=changes,
        same_new=_same(table, "n"),
        same_old=_same(table, "o"),
    )


_REVERSE: dict[str, Callable[[Table], sql.Composed]] = {
    "I": _reverse_insertions,
    "D": _reverse_deletions,
    "U": _reverse_updates,
}


def _entries(op: str) -> sql.Composed:
    return sql.SQL(
        "ckptrun.history WHERE seq BETWEEN %(low)s AND %(high)s AND relation = %(oid)s AND op = {} AND {}"
    ).format(op, _OPEN)


def _same(table: Table, row: str) -> sql.Composed:
    """Return the condition that the row `cr` of the table has the key of an entry's row."""
    pairs = (
        sql.SQL("cr.{0} = (e.{1}).{0}").format(sql.Identifier(name), sql.Identifier(row))
        for name in table.primary
    )
    return sql.SQL(" AND ").join(pairs)


def _users_triggers(connection: psycopg.Connection[Any], table: Table) -> list[tuple[str, str]]:
    """Return name and state of the triggers that fire now and are not the constraints'."""
    rows: Iterable[tuple[str, str]] = connection.execute(
        "SELECT tgname, tgenabled::text FROM pg_trigger"
        " WHERE tgrelid = %s AND NOT tgisinternal AND tgenabled <> 'D' ORDER BY tgname",
        [table.oid],
    )
    return list(rows)
