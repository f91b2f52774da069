"""The declared tables as PostgreSQL knows them, and the lock that keeps writers out of them."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from ckptrun.hooking.program import HookFailedError, TryAgainError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HOLDER = "ckptrun-hold:"
"""What the application_name of a connection begins with that holds locks over a checkpoint."""
PAUSE_SECONDS = 0.1
RETRY_SECONDS = 5.0

_WRITERS = ("RowExclusiveLock", "ShareUpdateExclusiveLock", "ShareRowExclusiveLock", "ExclusiveLock")


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its name, its type as SQL writes it, and whether a statement may set it."""

    name: str
    type: str
    settable: bool
    insertable: bool


@dataclass(frozen=True, slots=True)
class Table:
    """A declared table.

    Args:
        said: as the option names it.
        key: the column that grows with every row, where one is declared.
        primary: columns of the primary key; empty without one.
        deferrable: it has a unique constraint that is checked late.
        owned: the role that we are may alter it.
    """

    said: str
    oid: int
    schema: str
    name: str
    columns: tuple[Column, ...]
    primary: tuple[str, ...]
    key: str | None
    deferrable: bool
    owned: bool

    @property
    def sql(self) -> sql.Identifier:
        """Its name, quoted."""
        return sql.Identifier(self.schema, self.name)

    @property
    def signature(self) -> str:
        """Changes when the columns do."""
        text = repr([(column.name, column.type) for column in self.columns])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def column(self, name: str) -> Column | None:
        """Return the column of this name."""
        return next((column for column in self.columns if column.name == name), None)


def find(connection: psycopg.Connection[Any], declared: Sequence[str]) -> list[Table]:
    """Look the declared tables up, each ``name`` or ``name:key``.

    Raises:
        HookFailedError: one is not there, or is no plain table.
    """
    if not declared:
        raise HookFailedError("option tables names no table; write tables=orders,invoices")
    return [_find(connection, said) for said in declared]


def _find(connection: psycopg.Connection[Any], said: str) -> Table:
    name, _, key = said.partition(":")
    try:
        row = connection.execute("SELECT to_regclass(%s)::oid", [name]).fetchone()
    except psycopg.Error as error:
        raise HookFailedError(f"option tables: {name!r} is no name of a table: {first_line(error)}") from None
    oid = row and row[0]
    if oid is None:
        raise HookFailedError(
            f"table {name} is not in the database (search_path {_path(connection)}):"
            " create it before the job starts, or name it with its schema in option tables"
        )
    found = connection.execute(
        "SELECT n.nspname, c.relname, c.relkind, pg_has_role(c.relowner, 'USAGE')"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %s",
        [oid],
    ).fetchone()
    assert found is not None
    schema, plain, kind, owned = found
    if kind != "r":
        raise HookFailedError(
            f"{name} is no plain table; declare the tables below it (of a partitioned table: its partitions)"
        )
    columns = tuple(
        Column(column, kind_of, settable=not generated and identity != "a", insertable=not generated)
        for column, kind_of, identity, generated in connection.execute(
            "SELECT attname, format_type(atttypid, atttypmod), attidentity, attgenerated <> ''"
            " FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            [oid],
        )
    )
    primary = tuple(
        row[0]
        for row in connection.execute(
            "SELECT a.attname FROM pg_index i CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, n)"
            " JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum"
            " WHERE i.indrelid = %s AND i.indisprimary ORDER BY k.n",
            [oid],
        )
    )
    deferrable = connection.execute(
        "SELECT EXISTS (SELECT FROM pg_index WHERE indrelid = %s AND NOT indimmediate)", [oid]
    ).fetchone()
    table = Table(
        said=name,
        oid=oid,
        schema=schema,
        name=plain,
        columns=columns,
        primary=primary,
        key=key or None,
        deferrable=bool(deferrable and deferrable[0]),
        owned=owned,
    )
    if key and table.column(key) is None:
        raise HookFailedError(
            f"table {name} has no column {key!r}, which option tables names as the one that grows"
        )
    return table


def lock(
    connection: psycopg.Connection[Any],
    tables: Sequence[Table],
    mode: str,
    deadline: float,
    blocked: Callable[[], None] | None = None,
) -> None:
    """Lock the tables in the open transaction.

    Who waits for a lock makes others wait behind it, and could close a circle with the job's own transactions.
    So each try is shorter than the server's deadlock_timeout, and lets go of everything before the next: the
    server never has a reason to end a transaction of the job's.

    Args:
        connection: in a transaction.
        tables: which.
        mode: SHARE keeps writers out, SHARE ROW EXCLUSIVE also others who do this.
        deadline: of `time.monotonic`.
        blocked: called after each try that failed.

    Raises:
        TryAgainError: others hold them until the deadline; says who.
    """
    row = connection.execute(
        "SELECT setting::int FROM pg_settings WHERE name = 'deadlock_timeout'"
    ).fetchone()
    assert row is not None
    names = sql.SQL(", ").join(table.sql for table in tables)
    statement = sql.SQL("LOCK TABLE {} IN {} MODE").format(names, sql.SQL(mode))
    while True:
        try:
            with connection.transaction():
                set_local(connection, "statement_timeout", f"{max(row[0] // 2, 1)}ms")
                connection.execute(statement)
                set_local(connection, "statement_timeout", "0")
        except (
            psycopg.errors.QueryCanceled,
            psycopg.errors.LockNotAvailable,
            psycopg.errors.DeadlockDetected,
        ):
            if time.monotonic() >= deadline:
                raise TryAgainError(_who(connection, tables), RETRY_SECONDS) from None
            if blocked is not None:
                blocked()
            time.sleep(PAUSE_SECONDS)
        else:
            return


def blockers(connection: psycopg.Connection[Any], tables: Sequence[Table]) -> list[dict[str, Any]]:
    """Return who has written to the tables in a transaction that is not over."""
    rows = connection.execute(
        "SELECT DISTINCT l.pid, l.relation::regclass::text, coalesce(a.application_name, ''),"
        " coalesce(a.usename::text, ''),"
        " extract(epoch FROM clock_timestamp() - a.xact_start)::float8"
        " FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)"
        " WHERE l.relation = ANY(%s) AND l.granted AND l.mode = ANY(%s)"
        " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        " AND l.pid IS DISTINCT FROM pg_backend_pid()",
        [[table.oid for table in tables], [*_WRITERS, "AccessExclusiveLock"]],
    )
    names = ("pid", "table", "application", "role", "seconds")
    return [dict(zip(names, row, strict=True)) for row in rows]


def _who(connection: psycopg.Connection[Any], tables: Sequence[Table]) -> str:
    said = ", ".join(table.said for table in tables)
    others = blockers(connection, tables)
    if not others:
        return f"the tables {said} are never free of writers for long enough; raise option wait"
    one = others[0]
    who = f"backend {one['pid']}" if one["pid"] else "a prepared transaction"
    if one["application"]:
        who += f" ({one['application']})"
    since = f" for {one['seconds']:.0f} s" if one["seconds"] is not None else ""
    return f"a transaction of {who} has written to {one['table']} and is open{since}; it must commit first"


def set_local(connection: psycopg.Connection[Any], name: str, value: str) -> None:
    """Set a setting for the open transaction."""
    connection.execute("SELECT set_config(%s, %s, true)", [name, value])


def first_line(error: BaseException) -> str:
    """Return what an error says, without the server's position marks."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _path(connection: psycopg.Connection[Any]) -> str:
    row = connection.execute("SHOW search_path").fetchone()
    return str(row and row[0])
