"""Polars: a table that grows, written over the last one with Polars' own threads."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from pace import report, steps


def main() -> None:
    table = pl.DataFrame({"step": [0], "value": [1]})
    table.write_parquet("table.parquet")
    for step in steps(100):
        table = pl.read_parquet("table.parquet")
        new = table.tail(500).select(
            pl.lit(step + 1).alias("step"), (pl.col("value") * 31 + step + 1) % 1_000_003
        )
        new = pl.concat([new, new.with_columns(pl.col("value") + 1)])
        pl.concat([table, new.cast(table.schema)]).write_parquet("table.tmp")
        Path("table.tmp").replace("table.parquet")
    totals = table.group_by("step").agg(pl.col("value").sum(), pl.len().alias("rows")).sort("step")
    totals.write_parquet("totals.parquet")
    report(totals.rows())


if __name__ == "__main__":
    main()
