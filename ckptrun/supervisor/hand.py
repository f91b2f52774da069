"""A thread that does one thing after another, for what must keep its order and must not hold others up."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Hand:
    """The thread; started with the first thing to do. Any thread may call."""

    def __init__(self, name: str) -> None:
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._lock = threading.Lock()

    def do(self, work: Callable[[], None]) -> None:
        """Have something done, which must not raise; does not wait."""
        with self._lock:
            if self._thread.ident is None:
                self._thread.start()
        self._queue.put(work)

    def stop(self) -> None:
        """Do nothing that is asked from now on."""
        self._queue.put(None)

    def _serve(self) -> None:
        while (work := self._queue.get()) is not None:
            work()
