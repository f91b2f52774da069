"""SQLite in WAL mode: a writer, a reader with a snapshot of its own, transactions open over steps."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from pace import report, sha, steps


def main() -> None:
    writer = sqlite3.connect("data.db", isolation_level=None)
    reader = sqlite3.connect("data.db", isolation_level=None)
    writer.execute("pragma journal_mode=wal")
    writer.execute("create table numbers (step integer primary key, value text)")
    seen = []
    for step in steps(120):
        if step % 3 == 0:
            writer.execute("begin")
        writer.execute("insert into numbers values (?, ?)", (step, sha(step, seen[-3:])))
        if step % 3 == 2:
            writer.execute("commit")
        seen.append(reader.execute("select count(*), max(value) from numbers").fetchone())
        if step == 62:
            writer.execute("pragma wal_checkpoint")
    for connection in (reader, writer):
        connection.close()
    # SQLite leaves its log beside a database whose inode number changed under it, as it does on another machine.
    with contextlib.closing(sqlite3.connect("data.db")) as again:
        Path("numbers.sql").write_text("\n".join(again.iterdump()))
    report(seen)


if __name__ == "__main__":
    main()
