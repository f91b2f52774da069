"""Idempotency keys: the same for a step and for its replay, another for every real repetition.

The counters live in the job's memory, and so go back with it: a replayed step gets the number it had. Keys made
inside an effect are counted apart: a replay that is given the effect's result does not run through them.
"""

from __future__ import annotations

import contextvars
import os
import threading

from ckptrun.job import _channel
from ckptrun.job._errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Tuple

    Counters = Dict[Tuple[str, ...], int]

_lock = threading.Lock()
_counters: Counters = {}
_scope = ""
_branch: tuple[int, ...] = ()
_forks = 0
inside: contextvars.ContextVar[tuple[str, Counters] | None] = contextvars.ContextVar(
    "ckptrun_effect", default=None
)
"""The effect that is being done, and its counters."""


def key(*parts: object) -> str:
    """Return a key for the present step, to give to a target as its ``Idempotency-Key``.

    It is the same when the step is replayed after a restore, and another each time it is really taken again: the
    n-th call with the same parts gets the n-th key. Inside an effect, without parts: the key of that effect.

    Several threads or processes that take the same step must name themselves in it, as ``key("upload", rank)``: in
    which order they would be counted is chance. A forked child counts apart from its parent by itself.

    Args:
        parts: what names the step; anything with a `str` that a replay repeats.

    Raises:
        UsageError: no parts, and not inside an effect.
    """
    words = tuple(str(part) for part in parts)
    effect = inside.get()
    if effect is not None:
        name, counters = effect
        if not words:
            return _digest(words=("effect", name), number=0)
    elif words:
        name, counters = "", _counters
    else:
        raise UsageError("key() outside an effect needs a name for the step", "write key('charge', order)")
    with _lock:
        counters[words] = number = counters.get(words, 0) + 1
    return _digest((name, *map(str, () if name else _branch), "", *words), number)


def _digest(words: tuple[str, ...], number: int) -> str:
    import hashlib

    whole = "\0".join((scope(), *words, str(number)))
    return "ckptrun-" + hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:40]


def scope() -> str:
    """Return what tells this life of the lineage from all others; without ckptrun, this process from all others."""
    global _scope  # noqa: PLW0603
    if not _scope:
        if _channel.under_ckptrun():
            _scope = str(_channel.request("effect", op="scope")["scope"])
        else:
            _scope = os.urandom(16).hex()
    return _scope


def _forking() -> None:
    global _forks  # noqa: PLW0603
    _forks += 1


def _forked() -> None:
    global _branch, _forks, _lock
    _branch, _forks, _lock = (*_branch, _forks), 0, threading.Lock()
    _counters.clear()


os.register_at_fork(before=_forking, after_in_child=_forked)
