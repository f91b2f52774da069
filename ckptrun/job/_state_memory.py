"""The state where there is no ckptrun: a dictionary of this process, which ends with it."""

from __future__ import annotations

import os
import threading

from ckptrun.job._state_batch import STATE_BYTES, cost, full

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, Mapping, Sequence


class Memory:
    """A state in this process; any thread. Arguments are checked by the caller.

    Args:
        room: bytes that all entries may count.
    """

    def __init__(self, room: int = STATE_BYTES) -> None:
        self._room = room
        self._lock = threading.Lock()
        self._entries: dict[str, bytes] = {}
        self._used = 0

    def put_many(self, values: Mapping[str, bytes], delete: Iterable[str]) -> None:
        """Delete, then put, or do nothing at all. UsageError: the state is full."""
        with self._lock:
            gone = {key for key in (*delete, *values) if key in self._entries}
            used = self._used - sum(self._cost(key, self._entries[key]) for key in gone)
            used += sum(self._cost(key, value) for key, value in values.items())
            if used > self._room and used > self._used:
                raise full(self._room)
            for key in gone:
                del self._entries[key]
            self._entries.update(values)
            self._used = used

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Return those that are there."""
        with self._lock:
            return {key: self._entries[key] for key in keys if key in self._entries}

    def keys(
        self, prefix: str, after: str | None, before: str | None, limit: int | None, *, reverse: bool
    ) -> list[str]:
        """Return keys in order."""
        with self._lock:
            found = sorted(
                (
                    key
                    for key in self._entries
                    if key.startswith(prefix)
                    and (after is None or key > after)
                    and (before is None or key < before)
                ),
                reverse=reverse,
            )
        return found if limit is None else found[:limit]

    def delete_prefix(self, prefix: str) -> int:
        """Delete what begins so; return how many."""
        with self._lock:
            gone = [key for key in self._entries if key.startswith(prefix)]
            for key in gone:
                self._used -= self._cost(key, self._entries.pop(key))
            return len(gone)

    def forked(self) -> None:
        """Let a forked child go on with its copy, whatever another thread of its parent was at."""
        self._lock = threading.Lock()

    @staticmethod
    def _cost(key: str, value: bytes) -> int:
        return cost(key.encode(), len(value))


MEMORY = Memory()
os.register_at_fork(after_in_child=MEMORY.forked)
