"""What the main thread is given to do: events and tasks, in order, from any thread."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptrun.core.events import Event

Task: TypeAlias = "Callable[[], None]"


class Loop:
    """The queue of a loop in the main thread."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Event | Task] = queue.SimpleQueue()

    def take(self, seconds: float | None) -> Event | Task:
        """Return what comes next; main thread only. Raises TimeoutError: nothing has come for so long."""
        try:
            return self._queue.get(timeout=seconds)
        except queue.Empty:
            raise TimeoutError from None

    def post(self, event: Event) -> None:
        """Take an event; any thread."""
        self._queue.put(event)

    def in_main(self, work: Callable[[], None]) -> None:
        """Have the main thread do something, and wait for it; raises what it raises."""
        done: Future[None] = Future()

        def task() -> None:
            try:
                work()
                done.set_result(None)
            except BaseException as error:  # noqa: BLE001 - it belongs to the waiting thread
                done.set_exception(error)

        self._queue.put(task)
        done.result()

    def enqueue(self, task: Task) -> None:
        """Have the main thread do something, without waiting; any thread."""
        self._queue.put(task)

    def after(self, seconds: float, task: Task) -> None:
        """Have the main thread do something later."""
        timer = threading.Timer(seconds, self._queue.put, (task,))
        timer.daemon = True
        timer.start()
