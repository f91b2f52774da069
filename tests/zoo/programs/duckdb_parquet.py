"""DuckDB: a database file with its log, queried while it grows, and written out as Parquet."""

from __future__ import annotations

import duckdb
from pace import report, steps


def main() -> None:
    database = duckdb.connect("data.duckdb", config={"threads": 2})
    database.execute("create table numbers (step integer, value bigint)")
    for step in steps(100):
        database.execute(
            "insert into numbers select ?, (range * 7919 + ?) % 10007 from range(1000)", [step, step]
        )
        (before,) = database.execute(
            "select sum(value) from numbers where step % 3 = ?", [step % 3]
        ).fetchall()
        database.execute("insert into numbers values (?, ?)", [step, int(before[0]) % 10007])
    database.execute("copy (select * from numbers order by all) to 'numbers.parquet' (format parquet)")
    rows = database.execute(
        "select step, sum(value), count(*) from numbers group by step order by step"
    ).fetchall()
    database.close()
    report(rows)


if __name__ == "__main__":
    main()
