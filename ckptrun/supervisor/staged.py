"""Checkpoints whose bytes lie in staging: what uploads read from, and the fastest thing to restore from."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptrun.core.model import Snapshot
    from ckptrun.criu.staging import Arena, Slot
    from ckptrun.supervisor.facts import Facts


@dataclass(slots=True)
class Staged:
    """One complete local copy; seconds are durations."""

    snapshot: Snapshot
    slot: Slot
    facts: Facts
    frozen_seconds: float
    inexact: tuple[str, ...] = ()


class LocalCopies:
    """The local copies of one run; any thread."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._lock = threading.Lock()
        self._copies: dict[str, Staged] = {}

    def add(self, staged: Staged) -> None:
        """Keep a complete copy."""
        with self._lock:
            self._copies[staged.snapshot.id] = staged

    def get(self, checkpoint: str) -> Staged | None:
        """Return a copy, or None if it is gone."""
        with self._lock:
            return self._copies.get(checkpoint)

    def drop(self, checkpoint: str) -> None:
        """Free a copy's memory; nothing may read from it any more."""
        with self._lock:
            staged = self._copies.pop(checkpoint, None)
        if staged:
            self._arena.give(staged.slot)
