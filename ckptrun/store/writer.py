"""The lineage's one writer: checkpoints in, HEAD forward. Made by `Lineage.acquire`; called by the supervisor."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ckptrun.core.model import CheckpointRecord, Snapshot
    from ckptrun.core.retention import Keep
    from ckptrun.store.api import Prepared, RunInfo


class Writer:
    """The lineage's one writer. Thread-safe: changes of HEAD queue up, and so do uploads.

    Attributes:
        epoch: counts the writers of this lineage.
        previous: the run before this writer, RUNNING turned INTERRUPTED; None if there was none.
    """

    epoch: int
    previous: RunInfo | None

    def put(
        self,
        snapshot: Snapshot,
        *,
        frozen_seconds: float,
        progress: Callable[[int, int], None] | None = None,
        inexact: tuple[str, ...] = (),
    ) -> Prepared:
        """Store a checkpoint's bytes, without making it count.

        Args:
            snapshot: its sources are read once.
            frozen_seconds: for the record.
            progress: is told bytes done and bytes in all, from this thread.
            inexact: files not captured exactly, for the record.

        Raises:
            StoreError: it could not be stored; the lineage is as before.
        """
        raise NotImplementedError

    def commit(self, prepared: Prepared, *, keep: Keep) -> CheckpointRecord:
        """Make a checkpoint count, and apply retention.

        Raises:
            FencedError: another writer has taken over.
            StoreError: it is not known to count.
        """
        raise NotImplementedError

    def renew(self) -> None:
        """Show that this writer lives: at least every 5 s. FencedError, StoreError."""
        raise NotImplementedError

    def set_run(self, run: RunInfo) -> None:
        """Record how the run stands. FencedError, StoreError."""
        raise NotImplementedError

    def drop(self, record_ids: Iterable[str], reason: str) -> None:
        """Take checkpoints out of the lineage; what they refer to is not trusted for new ones."""
        raise NotImplementedError

    def close(self, run: RunInfo) -> None:
        """Record how the run ended and give the lease back; the writer is of no use afterwards."""
        raise NotImplementedError

    def release(self) -> None:
        """Give the lease back and leave the record of the last run alone."""
        raise NotImplementedError
