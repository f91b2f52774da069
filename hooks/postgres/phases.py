"""What the postgres hook does in each phase."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import history
import holder
import lineages
import marking
import psycopg
from psycopg.conninfo import conninfo_to_dict
from tables import HOLDER, Table, blockers, find, first_line, lock, set_local

from ckptrun.hooking.program import Answer, Context, HookFailedError, TryAgainError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

OLDEST = 14
"""Major version of PostgreSQL that this is written for, and later ones."""
MODES = ("undo", "delete", "move", "mark")
GRACE_SECONDS = 2.0
"""What a transaction that outlived the job is given to end by itself."""
REPLY_SECONDS = 2.0
"""Kept of a call's time for the answer."""
AGAIN_SECONDS = 2.0
NAME = "ckptrun"


@dataclass(frozen=True, slots=True)
class Settings:
    """The hook's options; hook.json says what they mean."""

    dsn: str
    tables: tuple[str, ...]
    mode: str
    mark: str
    role: str | None
    application: str | None
    wait: float
    hold: float
    keep: int

    @classmethod
    def of(cls, context: Context) -> Settings:
        """Read the options.

        Raises:
            HookFailedError: one is missing or wrong.
        """
        options = context.options
        if not options.get("dsn"):
            raise HookFailedError("option dsn is missing; write dsn=$DATABASE_URL")
        mode = options.get("mode", "undo")
        if mode not in MODES:
            raise HookFailedError(f"option mode is {mode!r}; it is one of {', '.join(MODES)}")
        role, application = options.get("role"), options.get("application_name")
        if mode != "undo" and (role or application):
            raise HookFailedError(
                f"mode={mode} cannot know who wrote a row: role and application_name go with mode=undo"
            )
        return cls(
            dsn=options["dsn"],
            tables=tuple(context.listed("tables")),
            mode=mode,
            mark=options.get("mark", "rewound_at"),
            role=role,
            application=application,
            wait=context.number("wait", 10),
            hold=context.number("hold", 120),
            keep=max(1, int(context.number("keep", 10))),
        )

    def until(self, context: Context) -> float:
        """Return the moment at which waiting for locks is over."""
        return min(time.monotonic() + self.wait, context.deadline - REPLY_SECONDS)

    def _check_dsn(self) -> None:
        """Refuse what was meant as a part of the password and would be taken, and told, for a host's name."""
        try:
            hosts = conninfo_to_dict(self.dsn).get("host") or ""
        except psycopg.Error:
            return
        if any("@" in host[1:] for host in str(hosts).split(",")):  # a first one is an abstract socket's
            raise HookFailedError(
                "option dsn names a host with an @ in it: write an @ in a password as %40, likewise all but letters"
                " and digits"
            )

    def connect(self, name: str = NAME) -> psycopg.Connection[Any]:
        """Connect."""
        self._check_dsn()
        try:
            connection: psycopg.Connection[Any] = psycopg.connect(
                self.dsn, autocommit=True, connect_timeout=5, application_name=name, prepare_threshold=None
            )
        except psycopg.OperationalError:
            raise
        except psycopg.Error:  # its words repeat the option, and with it a password
            raise HookFailedError("option dsn is no connection string that PostgreSQL understands") from None
        if connection.info.server_version < OLDEST * 10000:
            version = connection.info.server_version // 10000
            connection.close()
            raise HookFailedError(f"the server is PostgreSQL {version}; {OLDEST} or newer is needed")
        return connection


def run(context: Context) -> Answer:
    """Do the phase that the context names.

    Raises:
        HookFailedError: it cannot be done.
        TryAgainError: it cannot be done now.
    """
    act = would if context.dry_run and context.phase != "pre-restore" else _PHASES[context.phase]
    try:
        return act(context, Settings.of(context))
    except psycopg.errors.InsufficientPrivilege as error:
        raise HookFailedError(f"{first_line(error)}; the hook's README says which rights it needs") from None
    except psycopg.errors.QueryCanceled:  # by the time we set ourselves
        raise HookFailedError(
            f"what is to be done in {context.phase} takes longer than the hook's time: raise its option timeout,"
            " such as timeout=10m"
        ) from None
    except psycopg.OperationalError as error:
        if context.phase in {"post-commit", "on-exit"}:  # nothing hangs on these
            raise HookFailedError(f"PostgreSQL: {first_line(error)}") from None
        raise TryAgainError(f"PostgreSQL: {first_line(error)}", AGAIN_SECONDS) from None
    except psycopg.Error as error:
        raise HookFailedError(f"PostgreSQL: {first_line(error)}") from None


def would(context: Context, settings: Settings) -> Answer:
    """Look, and leave nothing behind: say what a phase would do."""
    with settings.connect() as connection, connection.transaction(force_rollback=True):
        if context.phase != "pre-checkpoint":
            return {}
        tables = find(connection, settings.tables)
        if settings.mode == "undo":
            _check(tables)
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
            events = _prepare(connection, context, settings, tables, deadline)
        else:
            marking.prepare(connection, tables, settings.mode, settings.mark)
        holding = settings.connect(holder.name(context.lineage))
        holding.execute("BEGIN")
        # no later than this does the server end it, whatever became of us
        set_local(holding, "idle_in_transaction_session_timeout", f"{int(settings.hold * 1000)}ms")
        lock(holding, tables, "SHARE", deadline)
        data: dict[str, Any] = {"mode": settings.mode, "holder": holding.info.backend_pid}
        if settings.mode == "undo":
            data["seq"] = history.last(holding)
            data["tables"] = {table.said: _picture(holding, table) for table in tables}
            _complete(data["tables"])
            lineages.note(connection, context, tables, data["seq"])
        else:
            data["highest"] = marking.note(holding, tables)
    holder.leave(holding, settings.hold)
    return {"data": data, "done": ["noted"], "events": events}


def post_checkpoint(context: Context, settings: Settings) -> Answer:
    """Let writers in again."""
    data = context.data or {}
    with settings.connect() as connection:
        held = holder.end(connection, context.lineage, data.get("holder"))
        if not context.closing():
            if data.get("mode") == "undo":
                lineages.drop(connection, context)
            return {"done": ["released"]}
    if held:
        return {"done": ["released"], "data": {"held": True}}
    reason = (
        f"the tables' locks were lost before checkpoint {context.checkpoint} was complete, so that it may not"
        f" tell exactly what came after it; if it takes longer than {settings.hold:g} s, raise option hold"
    )
    event = {"event": "postgres-inexact", "checkpoint": context.checkpoint, "reason": reason}
    return {"outcome": "failed", "reason": reason, "events": [event], "data": {"held": False}}


def post_commit(context: Context, settings: Settings) -> Answer:
    """Forget the history that no kept checkpoint needs."""
    if settings.mode == "undo":
        with settings.connect() as connection:
            lineages.trim(connection, context.lineage, settings.keep)
    return {"done": ["trimmed"]}


def pre_restore(context: Context, settings: Settings) -> Answer:
    """Undo what came after the checkpoint."""
    data = context.data
    if data is None:
        raise HookFailedError(
            f"checkpoint {context.checkpoint} was taken without this hook: nobody knows what came after it."
            " Resume once with policy=ignore, and the tables stay as they are"
        )
    if data.get("mode") != settings.mode:
        raise HookFailedError(
            f"checkpoint {context.checkpoint} was taken with mode={data.get('mode')}, and option mode is"
            f" {settings.mode}: restore with that mode, and change it once the run has a newer checkpoint"
        )
    deadline = context.deadline - REPLY_SECONDS
    with settings.connect() as connection:
        if not context.dry_run:
            holder.end(connection, context.lineage)
            _end_leftovers(connection, settings)
        with connection.transaction(force_rollback=context.dry_run):
            tables = find(connection, settings.tables)
            counts = _undo(connection, context, settings, tables, data, deadline)
    parts = [
        f"{table}: {' and '.join(f'{n} {what}' for what, n in count.items() if n)}"
        for table, count in counts.items()
        if any(count.values())
    ]
    would = "would be: " if context.dry_run and parts else ""
    event = {
        "event": "postgres-undone",
        "checkpoint": context.checkpoint,
        "tables": counts,
        "mode": settings.mode,
    }
    return {
        "done": ["undone"],
        "reason": would + ("; ".join(parts) or "nothing to undo"),
        "events": [{**event, "dry_run": context.dry_run, "exact": bool(data.get("held"))}],
    }


def on_exit(context: Context, settings: Settings) -> Answer:
    """After a run that is complete, leave nothing behind."""
    if settings.mode != "undo" or (context.exit or {}).get("code") != 0:
        return {"done": ["kept"]}
    with settings.connect() as connection:
        row = connection.execute("SELECT to_regclass('ckptrun.lineages') IS NOT NULL").fetchone()
        if row and row[0]:
            lineages.forget(connection, context.lineage, settings.until(context))
    return {"done": ["forgotten"]}


_PHASES: Mapping[str, Callable[[Context, Settings], Answer]] = {
    "pre-checkpoint": pre_checkpoint,
    "post-checkpoint": post_checkpoint,
    "post-commit": post_commit,
    "pre-restore": pre_restore,
    "on-exit": on_exit,
}


def _check(tables: Sequence[Table]) -> None:
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


def _prepare(
    connection: psycopg.Connection[Any],
    context: Context,
    settings: Settings,
    tables: Sequence[Table],
    deadline: float,
) -> list[dict[str, Any]]:
    """Make what is missing for the history; return what is to be said about it."""
    _check(tables)
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


def _picture(connection: psycopg.Connection[Any], table: Table) -> dict[str, Any]:
    return {
        "oid": table.oid,
        "columns": table.signature,
        "triggers": history.triggers(connection, table),
        "sequences": history.sequences(connection, table),
    }


def _complete(pictures: Mapping[str, Mapping[str, Any]]) -> None:
    for said, picture in pictures.items():
        if len(picture["triggers"]) != 2:
            raise TryAgainError(f"the triggers on {said} were removed while the checkpoint began", 1.0)


def _undo(
    connection: psycopg.Connection[Any],
    context: Context,
    settings: Settings,
    tables: Sequence[Table],
    data: Mapping[str, Any],
    deadline: float,
) -> dict[str, dict[str, int]]:
    since = time.monotonic()

    def blocked() -> None:
        if time.monotonic() - since >= GRACE_SECONDS:
            for one in blockers(connection, tables):
                _end_backend(connection, settings, one)

    if settings.mode != "undo":
        lock(connection, tables, "SHARE ROW EXCLUSIVE", deadline, None if context.dry_run else blocked)
        set_local(connection, "statement_timeout", _left(deadline))
        return marking.undo(connection, context, tables, settings.mode, settings.mark, data["highest"])
    lineages.claim(connection, context, tables, settings.role, settings.application)
    lineages.go_back(connection, context, data["seq"])
    # a foreign key cannot be told to wait while anybody reads its tables
    mode = "ACCESS EXCLUSIVE" if history.keys_between(connection, tables) else "SHARE ROW EXCLUSIVE"
    lock(connection, tables, mode, deadline, None if context.dry_run else blocked)
    for table in tables:
        _compare(context, table, data["tables"].get(table.said), _picture(connection, table))
    set_local(connection, "statement_timeout", _left(deadline))
    history.settings(connection)
    counts = history.undo(connection, tables, data["seq"], settings.role, settings.application)
    if not settings.role and not settings.application:
        for table in tables:
            if not counts[table.said]["kept"]:
                history.set_sequences(connection, data["tables"][table.said]["sequences"])
    return counts


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


def _end_leftovers(connection: psycopg.Connection[Any], settings: Settings) -> None:
    """End connections of the job's that outlived it, where they have a name."""
    if settings.application:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = %s AND (%s::text IS NULL OR usename = %s) AND pid <> pg_backend_pid()",
            [settings.application, settings.role, settings.role],
        )


def _end_backend(connection: psycopg.Connection[Any], settings: Settings, one: Mapping[str, Any]) -> None:
    mine = settings.role in (None, one["role"]) and settings.application in (None, one["application"])
    if one["pid"] and mine and one["application"] != NAME and not one["application"].startswith(HOLDER):
        connection.execute("SELECT pg_terminate_backend(%s, 5000)", [one["pid"]])


def _left(deadline: float) -> str:
    return f"{max(1, int((deadline - time.monotonic()) * 1000))}ms"
