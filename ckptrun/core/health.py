"""One finding about this machine, as ``ckptrun doctor`` prints it.

Made by whoever knows a part of the machine (CRIU, the store, hooks); read by the doctor. Decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Args:
        name: a short, stable name, such as ``criu version``.
        ok: whether it is as it should be.
        detail: what was seen, in one sentence without a full stop.
        remedy: what to do about it, as a sentence; empty when ``ok``.
    """

    name: str
    ok: bool
    detail: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if not self.ok and not self.remedy:
            raise ValueError(f"the failing check {self.name!r} names no remedy")
