"""How a run ended, on its way into the store: in a thread, so that one that does not answer keeps nobody for ever.

Used by `vault` only.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptrun.errors import CkptrunError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptrun.core.model import Snapshot
    from ckptrun.store.repository import RunInfo, Writer

CLOSE_SECONDS = 30.0
"""How long the end of a run waits for a store that does not answer."""


class Recording(threading.Thread):
    """The record of how a run ended."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__(name="close", daemon=True)
        self.problems = ["the end of this run could not be recorded: the store does not answer"]
        self._work = work
        self._moved = time.monotonic()

    def wait(self) -> None:
        """Wait for its end, or until nothing has moved for `CLOSE_SECONDS`."""
        while self.is_alive() and (left := self._moved + CLOSE_SECONDS - time.monotonic()) > 0:
            self.join(left)

    def run(self) -> None:
        """Record."""
        self.problems = self._recorded()

    def _recorded(self) -> list[str]:
        """Record; return what went wrong."""
        try:
            self._work()
        except Exception as error:  # noqa: BLE001 - the run is over, whatever the store says
            return [f"the end of this run could not be recorded: {_reason(error)}"]
        return []


class Closing(Recording):
    """The end of a run: the job's state, what is still to be recorded, and how it ended."""

    def __init__(
        self,
        writer: Writer,
        run: RunInfo,
        state: Callable[[], Snapshot | None],
        rest: Callable[[], None],
    ) -> None:
        def close() -> None:
            rest()
            writer.close(run)

        super().__init__(close)
        self.stored = False
        self._writer = writer
        self._record = run
        self._state = state

    def run(self) -> None:
        """Store and record."""
        problems = []
        try:
            self._store()
        except Exception as error:  # noqa: BLE001 - the run is recorded all the same
            problems.append(f"the job's state could not be stored: {_reason(error)}")
        self.problems = [*problems, *self._recorded()]

    def _store(self) -> None:
        snapshot = self._state()
        if snapshot is not None:
            self._writer.set_run(replace(self._record, ended=None))  # whatever becomes of the state
            self.problems = ["the job's state could not be stored: the store does not answer"]
            self._writer.keep_state(self._writer.put(snapshot, frozen_seconds=0.0, progress=self._progress))
        self.stored = True

    def _progress(self, _done: int, _total: int) -> None:
        self._moved = time.monotonic()


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, CkptrunError) else repr(error)
