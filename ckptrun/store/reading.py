"""A committed checkpoint as it is read back. Made by `Lineage.load`; called by the supervisor for a restore."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptrun.core.model import CheckpointRecord, FileContent, ImageStream, Json


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A checkpoint in the store; its sources read and verify chunks as they go. CorruptError while reading.

    The streams' ``memory`` is None: `memory_runs` reads it from the cell tables.
    """

    record: CheckpointRecord
    streams: tuple[ImageStream, ...]
    files: tuple[FileContent, ...] = ()
    facts: Mapping[str, Json] = field(default_factory=dict)
