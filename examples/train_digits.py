"""Train a small network on scikit-learn's bundled handwritten digits; an ordinary script, no word of ckptrun.

    python examples/train_digits.py --steps 600 --log train.csv --model model.npz

Every step is one mini-batch and one line of the log. The same options give the same weights, bit for bit, so
that an interrupted run can be compared with one left alone. ``--step-seconds`` makes it last longer, and before step
N it waits while a file N lies in ``--hold``.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

TEST_IMAGES = 360
HOLD_POLL_SECONDS = 0.01


def main() -> None:
    """Train, log every step, save the model, print a digest of its weights."""
    options = parse_options()
    images, labels = load_digits(return_X_y=True)
    images = (images / 16.0).astype(np.float32)
    shuffle = np.random.default_rng(options.seed)
    order = shuffle.permutation(len(images))
    test, train = order[:TEST_IMAGES], order[TEST_IMAGES:]
    network = MLPClassifier(
        hidden_layer_sizes=(options.hidden, 64),
        solver="adam",
        batch_size=options.batch,
        random_state=options.seed,
    )

    options.log.write_text("step,loss,accuracy\n", encoding="ascii")
    with options.log.open("a", encoding="ascii") as log:
        for step in range(1, options.steps + 1):
            while options.hold and (options.hold / str(step)).exists():
                time.sleep(HOLD_POLL_SECONDS)
            batch = shuffle.choice(train, options.batch, replace=False)
            network.partial_fit(images[batch], labels[batch], classes=range(10))
            accuracy = network.score(images[test], labels[test])
            log.write(f"{step},{network.loss_:.9g},{accuracy:.4f}\n")
            log.flush()
            if step % options.print_every == 0 or step == options.steps:
                print(
                    f"step {step}/{options.steps}  loss {network.loss_:.4f}  accuracy {accuracy:.3f}",
                    flush=True,
                )
            time.sleep(options.step_seconds)

    weights = [*network.coefs_, *network.intercepts_]
    np.savez(options.model, *weights)
    print(f"weights sha256 {digest(weights)}", flush=True)


def digest(arrays: list[np.ndarray]) -> str:
    """Return one SHA-256 over the bytes of all arrays, hexadecimal."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=600, help="mini-batches to learn from (600)")
    parser.add_argument("--step-seconds", type=float, default=0.0, help="pause after every step (0)")
    parser.add_argument("--hold", type=Path, help="folder of files that hold it, each before its step (none)")
    parser.add_argument("--batch", type=int, default=64, help="images per mini-batch (64)")
    parser.add_argument("--hidden", type=int, default=128, help="neurons of the first layer (128)")
    parser.add_argument("--seed", type=int, default=1, help="of the weights and of the batches (1)")
    parser.add_argument("--log", type=Path, default=Path("train.csv"), help="a line per step (train.csv)")
    parser.add_argument(
        "--model", type=Path, default=Path("model.npz"), help="the weights, at the end (model.npz)"
    )
    parser.add_argument(
        "--print-every", type=int, default=50, metavar="N", help="steps between progress lines (50)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    with threadpool_limits(1):  # sums are added in one order only
        main()
