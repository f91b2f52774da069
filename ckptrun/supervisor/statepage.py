"""Writes the state page; its layout is the job's: `ckptrun.job._page`."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from ckptrun.job import _page

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FIELDS = _page.Page.__slots__


class StatePage:
    """The page of one run; any thread.

    Args:
        path: of the file, which has its size already; a page that is there is gone on with. Raises OSError.
        run: unique for this run, unless the page names it already.
        lineage: its name.
        note: told once, if the page cannot be written any more.
    """

    def __init__(self, path: Path, run: str, lineage: str, note: Callable[[str], None]) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._lock = threading.Lock()
        there = os.pread(self._fd, _page.SIZE, 0)
        before = _page.unpack(there[: _page.LAYOUT.size])
        self._sequence = _page.sequence(there) if before.run else 0
        self._page = before if before.run else _page.Page(run=run, lineage=lineage)
        self._note = note
        self._failed = False

    def set(self, **fields: int | str) -> None:
        """Change some of its fields."""
        with self._lock:
            now = {name: getattr(self._page, name) for name in FIELDS} | fields
            self._page = _page.Page(**now)
            data = _page.pack(self._sequence + 1, self._page)
            try:
                os.pwrite(self._fd, data[: _page.BODY_AT], 0)  # odd: what follows is being written
                os.pwrite(self._fd, data[_page.BODY_AT :], _page.BODY_AT)
                os.pwrite(self._fd, _page.pack(self._sequence + 2, self._page)[: _page.BODY_AT], 0)
            except OSError as error:
                if not self._failed:
                    self._note(f"the job is not told of its checkpoints any more: {error.strerror}")
                self._failed = True
            else:
                self._sequence = (self._sequence + 2) % (1 << 32)

    @property
    def page(self) -> _page.Page:
        """What it says."""
        return self._page

    def close(self) -> None:
        """Write no more."""
        with self._lock:
            os.close(self._fd)
            self._fd = -1
            self._failed = True
