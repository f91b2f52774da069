"""The store's entry points, gathered: what app and supervisor import. It adds nothing of its own."""

from __future__ import annotations

from ckptrun.core.retention import Keep
from ckptrun.store.api import CommandFacts, Head, KeySource, Owner, Prepared, RunInfo, Tombstone, VerifyReport
from ckptrun.store.backend import Backend
from ckptrun.store.lineage import Lineage
from ckptrun.store.opening import list_lineages, open_backend
from ckptrun.store.reading import StoredCheckpoint
from ckptrun.store.writer import Writer

__all__ = [
    "Backend",
    "CommandFacts",
    "Head",
    "Keep",
    "KeySource",
    "Lineage",
    "Owner",
    "Prepared",
    "RunInfo",
    "StoredCheckpoint",
    "Tombstone",
    "VerifyReport",
    "Writer",
    "list_lineages",
    "open_backend",
]
