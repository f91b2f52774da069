"""What the postgres hook is told: its options, and the connection that they name."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from ckptrun.hooking.program import HookFailedError

if TYPE_CHECKING:
    from ckptrun.hooking.program import Context

OLDEST = 14
"""Major version of PostgreSQL that this is written for, and later ones."""
MODES = ("undo", "delete", "move", "mark")
REPLY_SECONDS = 2.0
"""Kept of a call's time for the answer."""
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
