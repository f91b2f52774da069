"""The history of the declared tables: the triggers that write it, and where it stands; `reversing` reads it backwards.

A position is a number of ckptrun.history's own sequence, read while nobody can write to the tables: what has a
higher number came later.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from psycopg import sql
from tables import Table, set_local

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

# Triggers fire in the order of their names: before the users' own, so that what these change in turn stands after.
ROW_TRIGGER = "!ckptrun_history"
TRUNCATE_TRIGGER = "!ckptrun_truncate"

SETTINGS = {  # as in schema.sql
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "search_path": "pg_catalog, pg_temp",
    "synchronous_commit": "on",
}


def settings(connection: psycopg.Connection[Any]) -> None:
    """Have the open transaction write and read rows as the trigger does."""
    for name, value in SETTINGS.items():
        set_local(connection, name, value)


def installed(connection: psycopg.Connection[Any], tables: Sequence[Table]) -> bool:
    """Whether nothing is missing."""
    row = connection.execute("SELECT to_regprocedure('ckptrun.note()') IS NOT NULL").fetchone()
    return bool(row and row[0]) and all(len(triggers(connection, table)) == 2 for table in tables)


def make_schema(connection: psycopg.Connection[Any]) -> None:
    """Make schema, tables and function where they are missing, in a transaction of its own."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtext('ckptrun.history'))")
        connection.execute(Path(__file__).with_name("schema.sql").read_bytes())


def make_triggers(connection: psycopg.Connection[Any], tables: Sequence[Table]) -> list[str]:
    """Make the triggers that are missing, in the open transaction that has the tables locked; return their tables."""
    made = []
    for table in tables:
        if len(triggers(connection, table)) == 2:
            continue
        made.append(table.said)
        rows = "AFTER INSERT OR UPDATE OR DELETE ON {} FOR EACH ROW"
        whole = "BEFORE TRUNCATE ON {} FOR EACH STATEMENT"
        for name, when in ((ROW_TRIGGER, rows), (TRUNCATE_TRIGGER, whole)):
            trigger = sql.Identifier(name)
            connection.execute(sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(trigger, table.sql))
            create = sql.SQL("CREATE TRIGGER {} " + when + " EXECUTE FUNCTION ckptrun.note()")
            connection.execute(create.format(trigger, table.sql))
            # also where replication or a bulk load has turned triggers off for its session
            connection.execute(sql.SQL("ALTER TABLE {} ENABLE ALWAYS TRIGGER {}").format(table.sql, trigger))
    return made


def drop_triggers(connection: psycopg.Connection[Any], table: sql.Identifier) -> None:
    """Remove the triggers of a table."""
    for name in (ROW_TRIGGER, TRUNCATE_TRIGGER):
        connection.execute(sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(sql.Identifier(name), table))


def triggers(connection: psycopg.Connection[Any], table: Table) -> list[int]:
    """Return the oids of the table's triggers that are there and fire always."""
    rows = connection.execute(
        "SELECT oid::int8 FROM pg_trigger WHERE tgrelid = %s AND tgname = ANY(%s) AND tgenabled = 'A' ORDER BY tgname",
        [table.oid, [ROW_TRIGGER, TRUNCATE_TRIGGER]],
    )
    return [row[0] for row in rows]


def last(connection: psycopg.Connection[Any]) -> int:
    """Return the newest number there is; of a position only while nobody can write to the tables."""
    row = connection.execute(
        "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM ckptrun.history_seq_seq"
    ).fetchone()
    assert row is not None
    return int(row[0])


def sequences(connection: psycopg.Connection[Any], table: Table) -> dict[str, int]:
    """Return the next number of each sequence that is a column's own, by the sequence's oid."""
    owned = connection.execute(
        "SELECT s.oid::text, n.nspname, s.relname, q.seqincrement FROM pg_depend d"
        " JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_namespace n ON n.oid = s.relnamespace"
        " JOIN pg_sequence q ON q.seqrelid = s.oid"
        " WHERE d.classid = 'pg_class'::regclass AND d.refobjid = %s AND d.deptype IN ('a', 'i')",
        [table.oid],
    ).fetchall()
    found = {}
    for oid, schema, name, step in owned:
        query = sql.SQL("SELECT last_value + CASE WHEN is_called THEN {} ELSE 0 END FROM {}")
        row = connection.execute(query.format(step, sql.Identifier(schema, name))).fetchone()
        assert row is not None
        found[oid] = int(row[0])
    return found


def set_sequences(connection: psycopg.Connection[Any], wanted: dict[str, int]) -> None:
    """Have sequences go on where they stood. Unlike setval this is undone with its transaction."""
    for oid, value in wanted.items():
        row = connection.execute(
            "SELECT n.nspname, s.relname FROM pg_class s JOIN pg_namespace n ON n.oid = s.relnamespace"
            " WHERE s.oid = %s",
            [int(oid)],
        ).fetchone()
        if row is not None:
            statement = sql.SQL("ALTER SEQUENCE {} RESTART WITH {}").format(sql.Identifier(*row), value)
            connection.execute(statement)
