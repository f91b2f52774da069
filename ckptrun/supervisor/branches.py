"""Which checkpoints the lineage goes on from, on its way to HEAD: what is left behind must be known before all else.

Part of `ckptrun.supervisor.vault`; docs/design/poisoning.md says what is set aside when.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from typing import TYPE_CHECKING

from ckptrun.errors import CkptrunError, FencedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ckptrun.store.repository import Writer

RESTORE_SECONDS = 5.0
"""How long a restore waits for its checkpoint to be recorded as the one that the lineage goes on from."""


class Branches:
    """What a run sets aside. Any thread.

    Args:
        writer: returns the lineage's writer; None while the store is out of reach.
    """

    def __init__(self, writer: Callable[[], Writer | None]) -> None:
        self._writer = writer
        self._owed: deque[Callable[[Writer], None]] = deque()
        self._lock = threading.Lock()

    def set_aside(self, checkpoints: Sequence[str]) -> None:
        """Have the next run pass checkpoints over, in the background; a store out of reach is told later."""
        self._begin(lambda writer: writer.set_aside(checkpoints))

    def go_on_from(self, checkpoint: str) -> None:
        """Have the next run pass over what is newer than a checkpoint: the job is being put back to it.

        Waits until that is recorded, `RESTORE_SECONDS` at most; a store out of reach is told later. Mostly nothing is
        newer, and nothing to record: a store that hangs then holds no restore up.
        """
        writer = self._writer()
        if writer is None:
            return  # nothing is in the store yet that this run could go on from
        with contextlib.suppress(FencedError):  # the next renewal says it
            if not self._owed and writer.stands_at(checkpoint):
                return
        self._begin(lambda writer: writer.go_on_from(checkpoint)).join(RESTORE_SECONDS)

    def record(self, writer: Writer) -> None:
        """Record, in order, what is still to be recorded. FencedError, StoreError: what is left stays owed."""
        with self._lock:
            while self._owed:
                self._owed[0](writer)
                self._owed.popleft()

    def _begin(self, change: Callable[[Writer], None]) -> threading.Thread:
        self._owed.append(change)

        def work() -> None:
            writer = self._writer()
            with contextlib.suppress(CkptrunError):  # the next renewal tries again, and says it
                if writer:
                    self.record(writer)

        thread = threading.Thread(target=work, name="branch", daemon=True)
        thread.start()
        return thread
