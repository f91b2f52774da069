"""Who declares which tables, and where the history stood at each of their checkpoints: ``mode=undo`` only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import history
from psycopg import sql
from tables import Table, lock

from ckptrun.hooking.program import Context, HookFailedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg


def claim(
    connection: psycopg.Connection[Any],
    context: Context,
    tables: Sequence[Table],
    role: str | None,
    application: str | None,
) -> None:
    """Record that the run's lineage declares these tables; in the open transaction.

    Raises:
        HookFailedError: a newer run of the lineage has been here, or another lineage declares one of them.
    """
    connection.execute("LOCK TABLE ckptrun.lineages IN SHARE ROW EXCLUSIVE MODE")
    oids = [table.oid for table in tables]
    other = connection.execute(
        "SELECT lineage, seen::timestamp(0)::text FROM ckptrun.lineages WHERE lineage <> %(lineage)s"
        " AND tables && %(oids)s::oid[]"
        " AND (role IS NULL OR %(role)s::text IS NULL OR role = %(role)s)"
        " AND (application IS NULL OR %(application)s::text IS NULL OR application = %(application)s)",
        {"lineage": context.lineage, "oids": oids, "role": role, "application": application},
    ).fetchone()
    if other:
        raise HookFailedError(
            f"lineage {other[0]!r} declares some of the same tables (last seen {other[1]}): neither could tell its"
            " changes from the other's. Give each an application_name of its own (PGAPPNAME and the option);"
            f" if that run is gone for good: {forgetting(other[0])}"
        )
    done = connection.execute(
        "INSERT INTO ckptrun.lineages AS l (lineage, epoch, run, tables, role, application)"
        " VALUES (%(lineage)s, %(epoch)s, %(run)s, %(oids)s, %(role)s, %(application)s)"
        " ON CONFLICT (lineage) DO UPDATE SET epoch = greatest(l.epoch, excluded.epoch), run = excluded.run,"
        " tables = excluded.tables, role = excluded.role, application = excluded.application, seen = now()"
        " WHERE l.epoch <= excluded.epoch OR excluded.epoch = 0",  # 0: the store is out of reach, nobody knows
        {
            "lineage": context.lineage,
            "epoch": context.epoch,
            "run": context.run,
            "oids": oids,
            "role": role,
            "application": application,
        },
    )
    if done.rowcount == 0:
        raise HookFailedError(
            f"a newer run of lineage {context.lineage!r} writes to this database (this one has epoch {context.epoch}):"
            " this run was taken over. If it is another lineage of the same name, from another store, that is gone:"
            f" {forgetting(context.lineage)}"
        )


def note(connection: psycopg.Connection[Any], context: Context, tables: Sequence[Table], seq: int) -> int:
    """Record where the history stands at a checkpoint, and return the record's number."""
    row = connection.execute(
        "INSERT INTO ckptrun.positions (lineage, checkpoint, seq, tables) VALUES (%s, %s, %s, %s)"
        " ON CONFLICT (lineage, checkpoint) DO UPDATE SET seq = excluded.seq, tables = excluded.tables, taken = now()"
        " RETURNING id",
        [context.lineage, context.checkpoint, seq, [table.oid for table in tables]],
    ).fetchone()
    assert row is not None
    return int(row[0])


def go_back(connection: psycopg.Connection[Any], context: Context, seq: int) -> None:
    """See that the history still reaches back to a checkpoint, and forget those that come after it.

    Raises:
        HookFailedError: it does not.
    """
    row = connection.execute(
        "SELECT id, seq FROM ckptrun.positions WHERE lineage = %s AND checkpoint = %s",
        [context.lineage, context.checkpoint],
    ).fetchone()
    if row is None or row[1] != seq:
        raise HookFailedError(
            f"this database does not know checkpoint {context.checkpoint} of lineage {context.lineage!r} any more: an"
            " earlier restore went back to before it, the store had let go of it, or it is another database. Restore a"
            " checkpoint that it knows (see ckptrun.positions), or resume once with policy=ignore, and the tables stay"
            " as they are"
        )
    connection.execute(
        "DELETE FROM ckptrun.positions WHERE lineage = %s AND id > %s", [context.lineage, row[0]]
    )


def drop(connection: psycopg.Connection[Any], context: Context) -> None:
    """Forget the position of a checkpoint that did not come about."""
    connection.execute(
        "DELETE FROM ckptrun.positions WHERE lineage = %s AND checkpoint = %s",
        [context.lineage, context.checkpoint],
    )


def trim(connection: psycopg.Connection[Any], context: Context) -> int:
    """Forget the positions that can never be gone back to, and the history that no other reaches; return how much."""
    with connection.transaction():
        rows = connection.execute(
            "SELECT checkpoint FROM ckptrun.positions WHERE lineage = %s ORDER BY id", [context.lineage]
        ).fetchall()
        connection.execute(
            "DELETE FROM ckptrun.positions WHERE lineage = %s AND checkpoint = ANY(%s)",
            [context.lineage, context.forgettable([row[0] for row in rows])],
        )
        return connection.execute(
            "DELETE FROM ckptrun.history AS h USING (SELECT t AS relation, min(p.seq) AS seq"
            " FROM ckptrun.positions p CROSS JOIN unnest(p.tables) AS t GROUP BY t) AS oldest"
            " WHERE h.relation = oldest.relation AND h.seq <= oldest.seq"
        ).rowcount


def forget(connection: psycopg.Connection[Any], lineage: str, deadline: float) -> list[str]:
    """Remove what was kept for a lineage, and the triggers of tables that no other declares; return their names."""
    with connection.transaction():
        row = connection.execute(
            "DELETE FROM ckptrun.lineages WHERE lineage = %s RETURNING tables::int8[]", [lineage]
        ).fetchone()
        left = connection.execute(
            "SELECT c.oid::int8, n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.oid = ANY(%s) AND NOT EXISTS (SELECT FROM ckptrun.lineages l WHERE c.oid = ANY(l.tables))",
            [row[0] if row else []],
        ).fetchall()
        free = [
            Table(f"{schema}.{name}", oid, schema, name, (), (), None, deferrable=False, owned=True)
            for oid, schema, name in left
        ]
        if free:
            lock(connection, free, "ACCESS EXCLUSIVE", deadline)
        for table in free:
            history.drop_triggers(connection, table.sql)
        connection.execute(
            "DELETE FROM ckptrun.history h WHERE NOT EXISTS"
            " (SELECT FROM ckptrun.lineages l WHERE h.relation = ANY(l.tables))"
        )
        return [table.said for table in free]


def undeclared(connection: psycopg.Connection[Any], tables: Sequence[Table]) -> list[str]:
    """Return the undeclared tables whose rows a change of a declared table's also changes (ON DELETE CASCADE...)."""
    rows = connection.execute(
        sql.SQL(
            "SELECT DISTINCT conrelid::regclass::text FROM pg_constraint WHERE contype = 'f'"
            " AND confrelid = ANY(%(oids)s) AND conrelid <> ALL(%(oids)s)"
            " AND (confdeltype IN ('c', 'n', 'd') OR confupdtype IN ('c', 'n', 'd')) ORDER BY 1"
        ),
        {"oids": [table.oid for table in tables]},
    )
    return [row[0] for row in rows]


def forgetting(lineage: str) -> str:
    """Return what people run to remove a lineage."""
    quoted = lineage.replace("'", "''")
    return f"DELETE FROM ckptrun.lineages WHERE lineage = '{quoted}'"  # noqa: S608 - shown, not run
