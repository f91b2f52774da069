"""What a log's batches amount to: keys, where their values lie, and the requests that were carried out.

In memory, made anew from the log. Not thread-safe: its owner locks.
"""

from __future__ import annotations

import bisect
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from ckptrun.job._state_batch import DELETE, DELETE_PREFIX, PUT, cost

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckptrun.appstate.record import Operation

MOST_REQUESTS = 4096
"""Requests remembered: one that is sent again, because its reply was lost with a restore, is among the newest."""
FEW = 64
"""Names that are sorted in one by one; more of them are sorted together with all others."""


class Entry(NamedTuple):
    """Where a value lies: offset in the log, and bytes."""

    at: int
    size: int


class Index:
    """Keys of one log.

    Attributes:
        entries: by key.
        used: bytes that all of them count.
        requests: id -> result of those carried out, oldest first.
    """

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.used = 0
        self.requests: OrderedDict[str, int] = OrderedDict()
        self._names: list[str] = []
        self._new: set[str] = set()
        self._gone: set[str] = set()

    def used_after(self, batch: Iterable[Operation]) -> int:
        """Return what all entries would count after a batch."""
        changed: dict[str, int] = {}
        for operation in batch:
            if operation.kind == PUT:
                changed[operation.key] = cost(operation.key.encode(), operation.size)
            elif operation.kind == DELETE:
                changed[operation.key] = 0
            elif operation.kind == DELETE_PREFIX:
                changed |= dict.fromkeys([k for k in changed if k.startswith(operation.key)], 0)
                changed |= dict.fromkeys(self.beginning(operation.key), 0)
        before = sum(self._cost(key) for key in changed)
        return self.used - before + sum(changed.values())

    def apply(self, batch: Iterable[Operation], move: int = 0) -> None:
        """Take a batch that lies in the log, `move` bytes behind where its operations say."""
        for operation in batch:
            if operation.kind == PUT:
                self._put(operation.key, Entry(operation.at + move, operation.size))
            elif operation.kind == DELETE:
                self._drop(operation.key)
            elif operation.kind == DELETE_PREFIX:
                for key in self.beginning(operation.key):
                    self._drop(key)

    def remember(self, identity: str, result: int) -> None:
        """Take note of a request that was carried out."""
        self.requests[identity] = result
        if len(self.requests) > MOST_REQUESTS:
            self.requests.popitem(last=False)

    def beginning(self, prefix: str) -> list[str]:
        """Return the keys that begin with a text, in order."""
        return list(self.between(prefix, None, None, reverse=False))

    def between(self, prefix: str, after: str | None, before: str | None, *, reverse: bool) -> Iterator[str]:
        """Yield the keys that begin so and lie between two others, in order; nothing may change meanwhile."""
        self._sort()
        low = bisect.bisect_left(self._names, prefix)
        if after is not None:
            low = max(low, bisect.bisect_right(self._names, after))
        high = len(self._names) if before is None else bisect.bisect_left(self._names, before)
        if prefix:  # all that begin so stand together
            end = bisect.bisect_left(self._names, True, lo=low, key=lambda key: not key.startswith(prefix))
            high = min(high, end)
        numbers = range(high - 1, low - 1, -1) if reverse else range(low, high)
        return (self._names[number] for number in numbers)

    def _cost(self, key: str) -> int:
        entry = self.entries.get(key)
        return 0 if entry is None else cost(key.encode(), entry.size)

    def _put(self, key: str, entry: Entry) -> None:
        self.used -= self._cost(key)
        if key not in self.entries:
            if key in self._gone:
                self._gone.remove(key)
            else:
                self._new.add(key)
        self.entries[key] = entry
        self.used += self._cost(key)

    def _drop(self, key: str) -> None:
        self.used -= self._cost(key)
        if self.entries.pop(key, None) is not None:
            if key in self._new:
                self._new.remove(key)
            else:
                self._gone.add(key)

    def _sort(self) -> None:
        """Bring the sorted names up to date: one by one, or all at once."""
        names = self._names
        if len(self._new) + len(self._gone) > FEW:
            names[:] = [key for key in names if key not in self._gone]
            names += sorted(self._new)
            names.sort()
        else:
            for key in self._gone:
                del names[bisect.bisect_left(names, key)]
            for key in self._new:
                bisect.insort(names, key)
        self._new.clear()
        self._gone.clear()
