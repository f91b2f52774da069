"""scikit-learn: trees fitted by joblib's loky workers, which get a large array as a memory map."""

from __future__ import annotations

import numpy as np
from joblib import Parallel, delayed
from pace import report, steps
from sklearn.tree import DecisionTreeRegressor


def fit(inputs: np.ndarray, targets: np.ndarray, seed: int) -> bytes:
    rows = np.random.default_rng(seed).integers(len(inputs), size=500)
    tree = DecisionTreeRegressor(max_depth=6, random_state=seed).fit(inputs[rows], targets[rows])
    return tree.predict(inputs[:50]).tobytes()


def main() -> None:
    inputs = np.random.default_rng(7).normal(size=(20_000, 10))
    targets = np.sin(inputs).sum(1)
    results = []
    with Parallel(n_jobs=2, backend="loky", max_nbytes="1M") as parallel:
        for step in steps(60):
            results += parallel(delayed(fit)(inputs, targets, 4 * step + part) for part in range(4))
    report(results)


if __name__ == "__main__":
    main()
