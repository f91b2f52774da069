"""Which states of a job's the store has, newest first. Called by `jobstate`; a lineage is only read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptrun.appstate.mark import EMPTY, Mark
from ckptrun.errors import CorruptError

if TYPE_CHECKING:
    from ckptrun.core.model import CheckpointRecord, Source
    from ckptrun.store.repository import Lineage

FACT = "state"
"""Under this name a manifest's facts say which state is among its contents."""


def records(lineage: Lineage) -> list[CheckpointRecord]:
    """Return what has a state in the store, newest first, what was set aside last. StoreError."""
    head = lineage.head()
    if head is None:
        return []
    rest = [record for record in head.checkpoints if record not in head.live]
    states = [head.state] if head.state else []
    return [*states, *head.live, *rest]


def stored(lineage: Lineage, record: CheckpointRecord | None) -> tuple[Mark, dict[str, Source]]:
    """Return a state in the store, and the contents it lies in; the empty one of no record. StoreError."""
    if record is None:
        return EMPTY, {}
    found = lineage.load(record)
    return Mark.from_json(found.facts.get(FACT)), {file.key: file.data for file in found.files}


def newest_mark(lineage: Lineage) -> Mark | None:
    """Return the newest state in the store; None if it is damaged. StoreError."""
    try:
        return stored(lineage, next(iter(records(lineage)), None))[0]
    except CorruptError:
        return None
