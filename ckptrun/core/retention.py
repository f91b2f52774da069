"""Which checkpoints a lineage keeps: ``--keep``, as the store applies it at every commit and in ``gc``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptrun.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptrun.core.model import CheckpointRecord

_PLANNED = ("hourly", "daily", "best")


@dataclass(frozen=True, slots=True)
class Keep:
    """Keep the ``last`` newest checkpoints, at least 1, and every pinned one besides."""

    last: int = 3

    def __post_init__(self) -> None:
        if self.last < 1:
            raise ValueError("a lineage keeps at least one checkpoint")


def parse_keep(spec: str) -> Keep:
    """Return what ``last=N`` means.

    Raises:
        UsageError: the specification is wrong, or a rule is not built yet.
    """
    last: int | None = None
    for rule in spec.split(","):
        name, _, value = (part.strip() for part in rule.partition("="))
        if name in _PLANNED:
            raise UsageError(
                f"retention rule {name!r} in --keep {spec!r} is not built yet", hint="use last=N"
            )
        if name != "last" or last is not None or not (value.isascii() and value.isdigit()) or int(value) < 1:
            hint = "write last=N with N at least 1, such as last=3"
            raise UsageError(f"--keep {spec!r} is not a retention rule", hint=hint)
        last = int(value)
    return Keep() if last is None else Keep(last)


def expired(checkpoints: Sequence[CheckpointRecord], keep: Keep) -> tuple[CheckpointRecord, ...]:
    """Return those of the ``checkpoints`` (in any order) that ``keep`` lets go, oldest first."""
    by_age = sorted((c for c in checkpoints if not c.pinned), key=lambda c: c.seq)
    return tuple(by_age[: -keep.last])
