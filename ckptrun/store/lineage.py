"""One job's history in a store, as a reader sees it. Called by app and supervisor; writing is `writer`'s."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckptrun.core.model import CheckpointRecord
    from ckptrun.store.api import CommandFacts, Head, KeySource, Owner, VerifyReport
    from ckptrun.store.backend import Backend
    from ckptrun.store.reading import StoredCheckpoint
    from ckptrun.store.writer import Writer


class Lineage:
    """One lineage of a store. Cheap to make: nothing is read until it is asked for.

    Args:
        backend: of the store.
        name: letters, digits, ``._-``, at most 100, first a letter or digit.
        key: opens an encrypted lineage; None for a plain one.
        seen_path: local file that remembers the newest HEAD seen, so that an older copy put in its place is noticed.

    Raises:
        ConfigurationError: the name is not allowed.
    """

    def __init__(
        self, backend: Backend, name: str, key: KeySource | None, seen_path: Path | None = None
    ) -> None:
        raise NotImplementedError

    def exists(self) -> bool:
        """Say whether the store has this lineage; StoreError."""
        raise NotImplementedError

    def head(self) -> Head | None:
        """Return the newest HEAD, authenticated; None before the first writer.

        Raises:
            CorruptError: no generation of it is valid, or it is older than one seen before.
            WrongKeyError: the key does not open the lineage.
        """
        raise NotImplementedError

    def checkpoints(self) -> tuple[CheckpointRecord, ...]:
        """Return the committed checkpoints, newest first; raises as `head`."""
        raise NotImplementedError

    def load(self, record: CheckpointRecord) -> StoredCheckpoint:
        """Return a checkpoint with its verified manifest; CorruptError."""
        raise NotImplementedError

    def verify(self, record: CheckpointRecord, *, quick: bool) -> VerifyReport:
        """Read a checkpoint back; ``quick``: manifest, cell tables and the packs' sizes only."""
        raise NotImplementedError

    def acquire(
        self,
        owner: Owner,
        *,
        take_over: bool,
        command: CommandFacts,
        wait: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.time,
    ) -> Writer:
        """Become the lineage's one writer; makes the lineage if there is none.

        Args:
            owner: this process.
            take_over: do not ask whether the present holder is alive.
            command: what a first run will execute.
            wait: sleeps so many seconds.
            clock: seconds since the epoch.

        Raises:
            HeldError: a live writer has it.
            StoreRefusedError: the store is read-only or ignores preconditions.
        """
        raise NotImplementedError
