"""A ledger in PostgreSQL, three tables in the database's default schema: for runs that move between machines."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import psycopg

from ckptrun.effects.ledger import PATIENCE_SECONDS, refusal, without_password
from ckptrun.effects.model import Claim, Entry, Head
from ckptrun.errors import FencedError, LedgerLostError, LedgerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_LOCK = 0x636B7074
"""Two runs that make the tables at the same moment take turns."""
_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS ckptrun_effects_head (
        lineage text PRIMARY KEY, epoch bigint NOT NULL, term bigint NOT NULL, seq bigint NOT NULL,
        life bigint NOT NULL, closed boolean NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS ckptrun_effects (
        lineage text NOT NULL, life bigint NOT NULL, key text NOT NULL, seq bigint NOT NULL,
        loose boolean NOT NULL, entry text NOT NULL, PRIMARY KEY (lineage, life, key))""",
    """CREATE TABLE IF NOT EXISTS ckptrun_effects_claims (
        lineage text NOT NULL, term bigint NOT NULL, name text NOT NULL, seq bigint NOT NULL,
        PRIMARY KEY (lineage, term))""",
    "CREATE INDEX IF NOT EXISTS ckptrun_effects_by_seq ON ckptrun_effects (lineage, seq)",
    "CREATE INDEX IF NOT EXISTS ckptrun_effects_by_loose ON ckptrun_effects (lineage, seq) WHERE loose",
)


class PostgresLedger:
    """See `Ledger`.

    Args:
        url: as psycopg takes it; password and the rest also from libpq's environment and files.
        lineage: whose entries.
    """

    def __init__(self, url: str, lineage: str) -> None:
        self._url = url
        self._lineage = lineage
        self._connection: psycopg.Connection | None = None

    def warnings(self) -> list[str]:
        """See `Ledger.warnings`."""
        with self._transaction() as connection:
            found = connection.execute("SHOW fsync").fetchone()
        if found and found[0] == "off":
            server = without_password(self._url)
            return [
                f"the ledger's server {server} runs with fsync=off: if its machine goes down, effects may repeat"
            ]
        return []

    def head(self) -> Head:
        """See `Ledger.head`."""
        with self._translated() as connection:
            return self._head(connection)

    def claim(self, epoch: int, name: str) -> Head:
        """See `Ledger.claim`."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO ckptrun_effects_head VALUES (%s, 0, 0, 0, 0, true) ON CONFLICT DO NOTHING",
                (self._lineage,),
            )
            head = self._head(connection, lock=True)
            if epoch and epoch < head.epoch:
                raise FencedError(
                    f"the ledger {without_password(self._url)} was claimed by epoch {head.epoch}, "
                    f"this run is of epoch {epoch}"
                )
            claimed = Head(max(epoch, head.epoch), head.term + 1, head.seq, head.life, head.closed)
            connection.execute(
                "UPDATE ckptrun_effects_head SET epoch = %s, term = %s WHERE lineage = %s",
                (claimed.epoch, claimed.term, self._lineage),
            )
            connection.execute(
                "INSERT INTO ckptrun_effects_claims VALUES (%s, %s, %s, %s)",
                (self._lineage, claimed.term, name, claimed.seq),
            )
            return claimed

    def claims(self) -> list[Claim]:
        """See `Ledger.claims`."""
        query = "SELECT name, seq FROM ckptrun_effects_claims WHERE lineage = %s ORDER BY term"
        with self._translated() as connection:
            rows = connection.execute(query, (self._lineage,)).fetchall()
        return [Claim(name, seq) for name, seq in rows]

    def get(self, life: int, key: str) -> Entry | None:
        """See `Ledger.get`."""
        rows = self._entries("life = %s AND key = %s", life, key)
        return rows[0] if rows else None

    def since(self, seq: int) -> list[Entry]:
        """See `Ledger.since`."""
        return self._entries("seq > %s", seq)

    def loose(self) -> list[Entry]:
        """See `Ledger.loose`."""
        return self._entries("loose")

    def write(self, head: Head, entries: Sequence[Entry], known: int = 0) -> None:
        """See `Ledger.write`."""
        with self._transaction() as connection:
            done = connection.execute(
                "UPDATE ckptrun_effects_head SET seq = %s, life = %s, closed = %s "
                "WHERE lineage = %s AND term = %s AND seq >= %s",
                (head.seq, head.life, head.closed, self._lineage, head.term, known),
            )
            if done.rowcount != 1:
                raise refusal(without_password(self._url), self._head(connection), head)
            with connection.cursor() as cursor:
                cursor.executemany(
                    "INSERT INTO ckptrun_effects VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (lineage, life, key) "
                    "DO UPDATE SET seq = excluded.seq, loose = excluded.loose, entry = excluded.entry",
                    [
                        (self._lineage, one.life, one.key, one.seq, one.loose, json.dumps(one.to_json()))
                        for one in entries
                    ],
                )

    def close(self) -> None:
        """See `Ledger.close`."""
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                self._connection.close()
            self._connection = None

    def _head(self, connection: psycopg.Connection, *, lock: bool = False) -> Head:
        query = "SELECT epoch, term, seq, life, closed FROM ckptrun_effects_head WHERE lineage = %s"
        row = connection.execute(f"{query} FOR UPDATE" if lock else query, (self._lineage,)).fetchone()
        return Head(*row) if row else Head()

    def _entries(self, condition: str, *values: object) -> list[Entry]:
        query = f"SELECT entry FROM ckptrun_effects WHERE lineage = %s AND {condition} ORDER BY seq"  # noqa: S608
        with self._translated() as connection:
            rows = connection.execute(query, (self._lineage, *values)).fetchall()
        return [Entry.from_json(json.loads(text)) for (text,) in rows]

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[psycopg.Connection]:
        with self._translated() as connection, connection.transaction():
            yield connection

    @contextlib.contextmanager
    def _translated(self) -> Iterator[psycopg.Connection]:
        """Give the connection; what is done with it outside a transaction is one by itself, and one round trip."""
        try:
            yield self._connected()
        except psycopg.Error as error:
            self.close()
            raise LedgerUnavailableError(
                f"the effect ledger {without_password(self._url)} cannot be used: {' '.join(str(error).split())}",
                hint="see that the server can be reached from here with this URL",
            ) from error
        except (FencedError, LedgerLostError):
            raise
        except BaseException:
            self.close()
            raise

    def _connected(self) -> psycopg.Connection:
        if self._connection is None:
            seconds = int(PATIENCE_SECONDS)
            connection = psycopg.connect(
                self._url,
                autocommit=True,  # transactions are begun by name
                connect_timeout=seconds,
                keepalives_idle=seconds,
                tcp_user_timeout=seconds * 1000,
                application_name="ckptrun",
            )
            try:
                connection.execute(f"SET statement_timeout = {seconds * 1000}")
                connection.execute("SET synchronous_commit = on")
                connection.execute("SET default_transaction_isolation = 'read committed'")
                self._make_tables(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _make_tables(self, connection: psycopg.Connection) -> None:
        """Make the tables unless they are there: whoever may only read and write needs no right to make any."""
        row = connection.execute("SELECT to_regclass('ckptrun_effects_claims')").fetchone()
        if row and row[0] is not None:
            return
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            for statement in _SCHEMA:
                connection.execute(statement)
