"""What the trainings of the frameworks have in common: a pace, a hold before the last step, and what is compared.

Two batches are one step of the optimizer. While the file `poison` exists, the model's loss of every second batch is no
number; while `spoiled` exists, the model's loss is one, and what the trainer makes of it is not.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ckptrun import job

if TYPE_CHECKING:
    from torch import nn

HOLD, POISON, SPOILED = Path("hold"), Path("poison"), Path("spoiled")
STEPS, EVALUATE_EVERY, LOG_EVERY = 60, 20, 5
PAUSE_SECONDS = 0.02


def pace(step: int) -> None:
    """Rest after a step, and wait before the last one while the training is held and nothing is to go wrong."""
    time.sleep(PAUSE_SECONDS)
    while step == STEPS - 1 and HOLD.exists() and not (POISON.exists() or SPOILED.exists()):
        time.sleep(0.01)


class Poison:
    """Says by what the loss of a batch is to be multiplied."""

    def __init__(self) -> None:
        self._batches = 0

    def factor(self) -> float:
        """Return it for the next one."""
        self._batches += 1
        return math.nan if self._batches % 2 == 0 and POISON.exists() else 1.0


def expect_finite(model: nn.Module) -> None:
    """See that no loss has spoiled the weights, but for one that no callback can see in time."""
    assert SPOILED.exists() or all(parameter.isfinite().all() for parameter in model.parameters())


def tell(model: nn.Module, history: list[object], figures: list[float]) -> None:
    """Print what a disturbed training must have in common with an undisturbed one, and keep its figures."""
    job.checkpoint(wait=True)
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    told = {"weights": digest.hexdigest(), "history": history, "figures": figures}
    print("told", json.dumps(told), flush=True)
