"""The one queue through which a writer changes HEAD: renewals, commits, the run's state. Called by `writer`."""

from __future__ import annotations

import secrets
import threading
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptrun.errors import CorruptError, FencedError, PreconditionError, StoreError
from ckptrun.store.headfile import Found

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptrun.store.api import Head
    from ckptrun.store.headfile import HeadFile, Seen

_REMEMBERED = 64


class HeadQueue:
    """HEAD as its one writer knows and changes it. Thread-safe; changes happen one after the other.

    Args:
        file: the object.
        found: its present content and version, written by this writer.
        seen: remembers the newest one.
    """

    def __init__(self, file: HeadFile, found: Found, seen: Seen) -> None:
        self._file = file
        self._found = found
        self._seen = seen
        self._lock = threading.Lock()
        self._attempts = deque([found.head.commit], maxlen=_REMEMBERED)
        self._end = ""

    def head(self) -> Head:
        """Return HEAD as last written.

        Raises:
            FencedError: it was taken over, as an earlier write found out.
        """
        self._check()
        return self._found.head

    def change(self, change: Callable[[Head], Head | None]) -> bool:
        """Replace HEAD by what ``change`` makes of it; False if that is None.

        Raises:
            FencedError: another writer has replaced it.
            StoreError: whether it was replaced is not known; the next change finds out.
        """
        with self._lock:
            while True:
                self._check()
                new = change(self._found.head)
                if new is None:
                    return False
                new = replace(new, commit=secrets.token_hex(8), warnings=())
                self._attempts.append(new.commit)
                try:
                    self._found = Found(new, self._file.write(new, self._found.version))
                except PreconditionError:
                    self._found = self._own()
                    if self._found.head.commit != new.commit:
                        continue  # an earlier write of ours counted after all: build on that
                self._seen.check(self._found.head, self._file.where, (0, 0))
                return True

    def close(self) -> None:
        """Refuse further changes."""
        with self._lock:
            self._end = "closed"

    def _check(self) -> None:
        if self._end == "closed":
            raise StoreError(f"the writer of {self._file.where} is closed")
        if self._end:
            raise FencedError(self._end, hint="only one run of a lineage can go on: stop this one")

    def _own(self) -> Found:
        """Return what HEAD is now, if it was written by us: the answer to a write of ours was lost.

        Raises:
            FencedError: it was not.
        """
        try:
            found = self._file.read()
        except CorruptError:
            found = None
        if found is not None and found.head.commit in self._attempts and not found.head.warnings:
            return found
        who = "someone else"
        if found is not None and found.head.owner is not None:
            who = f"process {found.head.owner.pid} on {found.head.owner.host} (epoch {found.head.epoch})"
        self._end = f"{self._file.where} was taken over by {who}"
        self._check()
        raise AssertionError
