"""A small state that the job keeps with ckptrun: keys and bytes, which go back with its memory when it is restored.

It lies in the store with the checkpoints, and outlives the job: a run that starts anew finds it. All processes of the
job share it. Without ckptrun it is a dictionary of the process, and ends with it. docs/job.md teaches it.
"""

from __future__ import annotations

from ckptrun.job import _channel, _state_calls
from ckptrun.job._errors import UsageError
from ckptrun.job._state_batch import batch, checked_key, checked_text
from ckptrun.job._state_calls import StateUnavailableError
from ckptrun.job._state_memory import MEMORY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, Mapping, Sequence

__all__ = [
    "StateUnavailableError",
    "delete",
    "delete_prefix",
    "get",
    "get_many",
    "keys",
    "put",
    "put_many",
]


def put(key: str, value: bytes) -> None:
    """Keep a value under a key, instead of what was there.

    Args:
        key: text of 1 to 512 bytes of UTF-8.
        value: at most 64 MiB.

    Raises:
        UsageError: it is too large, or the state is full.
        StateUnavailableError: it cannot be written now; nothing was done.
    """
    put_many({key: value})


def put_many(values: Mapping[str, bytes], delete: Iterable[str] = ()) -> None:
    """Delete some keys and put others: all of it or, if it raises or the job dies, nothing.

    A key that is named in both is put; one to be deleted need not be there. Raises as `put`.
    """
    gone = list(delete) if not isinstance(delete, (str, bytes)) else delete
    parts = batch(values, gone)
    if not parts:
        return
    if _channel.under_ckptrun():
        _state_calls.put(parts)
    else:
        MEMORY.put_many({key: bytes(value) for key, value in values.items()}, gone)


def get(key: str) -> bytes | None:
    """Return the value of a key, or None."""
    return get_many([key]).get(key)


def get_many(keys: Sequence[str]) -> dict[str, bytes]:
    """Return the values of those keys that are there.

    Each value is whole. What together does not fit into a datagram (90 KiB) is read one after the other, and other
    processes may write in between.
    """
    if isinstance(keys, (str, bytes)):
        raise UsageError("get_many() takes a sequence of keys", "get(key) takes one")
    wanted = list(keys)
    for key in wanted:
        checked_key(key)
    return _state_calls.get(wanted) if _channel.under_ckptrun() else MEMORY.get_many(wanted)


def keys(
    prefix: str = "",
    after: str | None = None,
    before: str | None = None,
    reverse: bool = False,
    limit: int | None = None,
) -> list[str]:
    """Return the keys that begin with `prefix`, sorted by code points.

    Args:
        prefix: how they begin.
        after: only those that sort after this text.
        before: only those that sort before this one.
        reverse: the last ones first.
        limit: at most so many.
    """
    checked_text(prefix, "prefix")
    for text in (after, before):
        if text is not None:
            checked_text(text, "key")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
        raise UsageError(f"limit={limit!r} is no number of keys")
    found = _state_calls.keys if _channel.under_ckptrun() else MEMORY.keys
    return found(prefix, after, before, limit, reverse=bool(reverse))


def delete(*keys: str) -> None:
    """Delete keys, all at once; those that are not there do not matter. Raises `StateUnavailableError`."""
    put_many({}, keys)


def delete_prefix(prefix: str) -> int:
    """Delete all keys that begin with `prefix`, all at once; return how many. Raises `StateUnavailableError`."""
    checked_text(prefix, "prefix")
    return _state_calls.delete_prefix(prefix) if _channel.under_ckptrun() else MEMORY.delete_prefix(prefix)
