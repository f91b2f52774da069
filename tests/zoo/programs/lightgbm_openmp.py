"""LightGBM: boosting with OpenMP threads and native memory."""

from __future__ import annotations

from pathlib import Path

import lightgbm
import numpy as np
from pace import report, steps


def main() -> None:
    inputs = np.random.default_rng(7).normal(size=(5000, 10))
    targets = np.sin(inputs).sum(1)
    options = {
        "objective": "regression",
        "num_threads": 2,
        "deterministic": True,
        "force_row_wise": True,
        "seed": 7,
        "verbose": -1,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
    }
    booster = lightgbm.Booster(options, lightgbm.Dataset(inputs, targets))
    for _ in steps(120):
        booster.update()
    Path("model.txt").write_text(booster.model_to_string())
    report(booster.predict(inputs).tobytes())


if __name__ == "__main__":
    main()
