"""pandas and Arrow: a data set in parts, each written beside and renamed, numbered by what is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from pace import report, steps


def main() -> None:
    folder = Path("parts")
    folder.mkdir()
    generator = np.random.default_rng(7)
    for _ in steps(100):
        number = len(list(folder.glob("*.parquet")))
        part = pd.DataFrame({"part": number, "value": generator.normal(size=2000).cumsum()})
        part.to_parquet(folder / "part.tmp")
        (folder / "part.tmp").rename(folder / f"part-{number:03}.parquet")
    whole = pd.read_parquet(folder).sort_values(["part", "value"])
    totals = whole.groupby("part")["value"].agg(["mean", "std", "count"])
    totals.to_parquet("totals.parquet")
    report(totals.to_json(double_precision=15))


if __name__ == "__main__":
    main()
