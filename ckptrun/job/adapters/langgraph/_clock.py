"""LangGraph orders checkpoints by identities made of the time: a clock that is behind must not confuse them."""

from __future__ import annotations

import uuid

from langgraph.checkpoint.base import id as identities

_LAST = "_last_v6_timestamp"
"""Where LangGraph remembers the time in its newest identity, in units of 100 ns; the next one is later."""


def follow(identity: str) -> None:
    """Have this process's next identities sort after this one, also if the clock it was made by was ahead of ours.

    In the next run, on another machine, the newest checkpoint of a thread may be one of the future; those made from
    now on would be taken for older ones and lost.
    """
    try:
        number = uuid.UUID(identity).int
    except ValueError:
        return
    if number >> 76 & 0xF != 6 or not hasattr(identities, _LAST):
        return
    stamp = number >> 80 << 12 | number >> 64 & 0xFFF
    if stamp > (getattr(identities, _LAST) or 0):
        setattr(identities, _LAST, stamp)
