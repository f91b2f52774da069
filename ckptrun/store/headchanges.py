"""What HEAD becomes: with a checkpoint more, with a state, without some, gone back. Pure; the writer puts it in place.

`Packs` are what the lineage's checkpoints and its state refer to, by id; None where a manifest cannot be read.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from ckptrun.core.retention import expired
from ckptrun.store.api import Tombstone

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from ckptrun.core.model import CheckpointRecord
    from ckptrun.core.retention import Keep
    from ckptrun.store.api import Head

Packs: TypeAlias = "Mapping[str, frozenset[str] | None]"


def with_checkpoint(head: Head, record: CheckpointRecord, keep: Keep, packs: Packs, now: float) -> Head:
    """Return HEAD with a checkpoint, and with none of those that expire; `now` in seconds since the epoch."""
    others = (other for other in head.checkpoints if other.id != record.id)
    records = tuple(sorted((record, *others), key=lambda r: -r.seq))
    older = (head.state,) if head.state and head.state.seq < record.seq else ()
    state = None if older else head.state
    head = replace(head, checkpoints=records, seq=max(head.seq, record.seq), state=state)
    return without(head, {old.id for old in expired(records, keep)}, packs, now, older, distrust=False)


def with_state(head: Head, record: CheckpointRecord, packs: Packs, now: float) -> Head:
    """Return HEAD with a state, instead of the one that it has."""
    old = (head.state,) if head.state else ()
    head = replace(head, seq=max(head.seq, record.seq), state=record)
    return without(head, (), packs, now, old, distrust=False)


def gone_back(head: Head, record_id: str) -> Head | None:
    """Return HEAD as it is once the job is put back to a checkpoint; None if it stays as it is."""
    seq = next((record.seq for record in head.checkpoints if record.id == record_id), None)
    if seq is None:  # in local memory only: what is in the store is older
        return None
    newer = (record.id for record in head.checkpoints if record.seq > seq)
    others = (other for other in head.run.set_aside if other != record_id)
    changed = aside(head, (*others, *newer))
    return None if set(changed.run.set_aside) == set(head.run.set_aside) else changed


def without(
    head: Head,
    ids: Collection[str],
    packs: Packs,
    now: float,
    gone: Iterable[CheckpointRecord] = (),
    *,
    distrust: bool,
) -> Head:
    """Return HEAD without checkpoints; packs that nothing refers to any more get tombstones.

    Args:
        head: as it is.
        ids: of the checkpoints to drop.
        packs: what they and those that stay refer to.
        now: seconds since the epoch, for the tombstones.
        gone: what is not in HEAD any more already.
        distrust: whether their packs are suspect.
    """
    dropped = [*gone, *(record for record in head.checkpoints if record.id in ids)]
    head = replace(head, checkpoints=tuple(r for r in head.checkpoints if r.id not in ids))
    kept = referring(head)
    going = _union(packs.get(record.id) for record in dropped)
    suspect = {*head.suspect, *(going if distrust else ())}
    unused: frozenset[str] = frozenset()
    if all(packs.get(record.id) is not None for record in kept):
        used = _union(packs[record.id] for record in kept)
        unused, suspect = going - used, suspect & used
    # else: what an unreadable manifest refers to is not known, so nothing is buried
    known = {tombstone.pack for tombstone in head.tombstones}
    new = tuple(Tombstone(pack, now) for pack in sorted(unused - known))
    ids = {record.id for record in dropped}
    head = aside(head, (one for one in head.run.set_aside if one not in ids))
    return replace(head, tombstones=(*head.tombstones, *new), suspect=tuple(sorted(suspect)))


def aside(head: Head, record_ids: Iterable[str]) -> Head:
    """Return HEAD with these set aside, and no others."""
    return replace(head, run=replace(head.run, set_aside=tuple(dict.fromkeys(record_ids))))


def referring(head: Head) -> tuple[CheckpointRecord, ...]:
    """Return what refers to packs: the checkpoints, and the state."""
    return (*head.checkpoints, head.state) if head.state else head.checkpoints


def unusable(head: Head) -> set[str]:
    """Return the packs that nothing new may refer to."""
    return {tombstone.pack for tombstone in head.tombstones} | set(head.suspect)


def _union(sets: Iterable[frozenset[str] | None]) -> frozenset[str]:
    return frozenset().union(*(packs for packs in sets if packs is not None))
