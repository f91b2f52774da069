"""A ledger in an SQLite file: write-ahead log, one fsync for each transaction. For runs of one machine."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from ckptrun.effects.ledger import PATIENCE_SECONDS, refusal
from ckptrun.effects.model import Claim, Entry, Head
from ckptrun.errors import FencedError, LedgerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS head (
        lineage TEXT PRIMARY KEY, epoch INTEGER NOT NULL, term INTEGER NOT NULL, seq INTEGER NOT NULL,
        life INTEGER NOT NULL, closed INTEGER NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS entries (
        lineage TEXT NOT NULL, life INTEGER NOT NULL, key TEXT NOT NULL, seq INTEGER NOT NULL,
        loose INTEGER NOT NULL, entry TEXT NOT NULL, PRIMARY KEY (lineage, life, key)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS claims (
        lineage TEXT NOT NULL, term INTEGER NOT NULL, name TEXT NOT NULL, seq INTEGER NOT NULL,
        PRIMARY KEY (lineage, term)) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS by_seq ON entries (lineage, seq)",
    "CREATE INDEX IF NOT EXISTS by_loose ON entries (lineage, seq) WHERE loose",
)


class SqliteLedger:
    """See `Ledger`.

    Args:
        path: the file; made with the first write, for the owner alone.
        lineage: whose entries.
    """

    def __init__(self, path: str, lineage: str) -> None:
        self._path = Path(path)
        self._lineage = lineage
        self._connection: sqlite3.Connection | None = None

    def warnings(self) -> list[str]:
        """Nothing: what matters is set with every connection."""
        return []

    def head(self) -> Head:
        """See `Ledger.head`."""
        with self._reading() as connection:
            return self._head(connection) if connection else Head()

    def claim(self, epoch: int, name: str) -> Head:
        """See `Ledger.claim`."""
        with self._writing() as connection:
            head = self._head(connection)
            if epoch and epoch < head.epoch:
                raise FencedError(
                    f"the ledger {self._path} was claimed by epoch {head.epoch}, this run is of epoch {epoch}"
                )
            claimed = Head(max(epoch, head.epoch), head.term + 1, head.seq, head.life, head.closed)
            connection.execute(
                "INSERT OR REPLACE INTO head VALUES (?, ?, ?, ?, ?, ?)",
                (self._lineage, claimed.epoch, claimed.term, claimed.seq, claimed.life, claimed.closed),
            )
            connection.execute(
                "INSERT INTO claims VALUES (?, ?, ?, ?)", (self._lineage, claimed.term, name, claimed.seq)
            )
            return claimed

    def claims(self) -> list[Claim]:
        """See `Ledger.claims`."""
        query = "SELECT name, seq FROM claims WHERE lineage = ? ORDER BY term"
        with self._reading() as connection:
            rows = connection.execute(query, (self._lineage,)).fetchall() if connection else []
        return [Claim(name, seq) for name, seq in rows]

    def get(self, life: int, key: str) -> Entry | None:
        """See `Ledger.get`."""
        rows = self._entries("life = ? AND key = ?", life, key)
        return rows[0] if rows else None

    def since(self, seq: int) -> list[Entry]:
        """See `Ledger.since`."""
        return self._entries("seq > ?", seq)

    def loose(self) -> list[Entry]:
        """See `Ledger.loose`."""
        return self._entries("loose")

    def write(self, head: Head, entries: Sequence[Entry], known: int = 0) -> None:
        """See `Ledger.write`."""
        with self._writing() as connection:
            done = connection.execute(
                "UPDATE head SET seq = ?, life = ?, closed = ? WHERE lineage = ? AND term = ? AND seq >= ?",
                (head.seq, head.life, head.closed, self._lineage, head.term, known),
            )
            if done.rowcount != 1:
                raise refusal(str(self._path), self._head(connection), head)
            connection.executemany(
                "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (self._lineage, one.life, one.key, one.seq, one.loose, json.dumps(one.to_json()))
                    for one in entries
                ],
            )

    def close(self) -> None:
        """See `Ledger.close`."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _head(self, connection: sqlite3.Connection) -> Head:
        found = connection.execute(
            "SELECT epoch, term, seq, life, closed FROM head WHERE lineage = ?", (self._lineage,)
        ).fetchone()
        if not found:
            return Head()
        epoch, term, seq, life, closed = found
        return Head(epoch, term, seq, life, bool(closed))

    def _entries(self, condition: str, *values: object) -> list[Entry]:
        query = f"SELECT entry FROM entries WHERE lineage = ? AND {condition} ORDER BY seq"  # noqa: S608 - our own
        with self._reading() as connection:
            if connection is None:
                return []
            rows = connection.execute(query, (self._lineage, *values)).fetchall()
        return [Entry.from_json(json.loads(text)) for (text,) in rows]

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """Give the connection; None while there is no file: reading makes none."""
        with self._translated():
            yield self._connected() if self._connection or self._path.exists() else None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._translated():
            connection = self._connected()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.touch(mode=0o600)
            connection = sqlite3.connect(
                self._path, timeout=PATIENCE_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                for statement in _SCHEMA:
                    connection.execute(statement)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise LedgerUnavailableError(
                f"the effect ledger {self._path} cannot be used: {error}",
                hint="see that its folder can be written and its disk has room",
            ) from error
