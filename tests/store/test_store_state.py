"""The job's state in the store beside its checkpoints: HEAD's ``state``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from storekit import Place, acquire, commit, contents, expected, image, noise, owner, snapshot

from ckptrun.errors import FencedError
from ckptrun.store.repository import Keep, Lineage

if TYPE_CHECKING:
    from ckptrun.core.model import CheckpointRecord, Snapshot
    from ckptrun.store.repository import KeySource, Writer


def state(name: str, size: int = 300_000, seed: int = 7) -> Snapshot:
    return snapshot(name, files=[(f"state-g{seed}-0-{size}", noise(size, seed))], state={"bytes": size})


def keep(writer: Writer, what: Snapshot) -> CheckpointRecord:
    return writer.keep_state(writer.put(what, frozen_seconds=0.0))


def packs(lineage: Lineage, record: CheckpointRecord) -> set[str]:
    return {name for name, _ in lineage.load(record).manifest.packs}


def buried(lineage: Lineage) -> set[str]:
    head = lineage.head()
    assert head is not None
    return {tombstone.pack for tombstone in head.tombstones}


def test_a_state_comes_back_exactly_and_is_no_checkpoint(place: Place, key: KeySource | None):
    what = state("s1")
    writer = acquire(Lineage(place.open(), "train", key))
    commit(writer, snapshot("c1", image("a.img", noise(50_000))))
    record = keep(writer, what)
    writer.release()

    again = Lineage(place.open(), "train", key)
    head = again.head()
    assert head is not None
    assert head.state == record
    assert [checkpoint.id for checkpoint in head.checkpoints] == ["c1"]
    assert record.seq == head.seq == 2
    stored = again.load(record)
    assert contents(stored) == expected(what)
    assert stored.facts == what.facts
    assert again.verify(record, quick=False).bad == ()
    acquire(again).release()
    assert again.head().state == record  # type: ignore[union-attr]


def test_a_later_checkpoint_takes_it_away_and_its_packs_go_with_it(place: Place):
    lineage = Lineage(place.open(), "train", None)
    writer = acquire(lineage)
    first = keep(writer, state("s1"))
    old = packs(lineage, first)
    second = keep(writer, state("s2", seed=8))
    assert buried(lineage) == old
    new = packs(lineage, second)
    commit(writer, snapshot("c1", image("a.img", noise(50_000))))
    assert lineage.head().state is None  # type: ignore[union-attr]
    assert buried(lineage) == old | new


def test_what_the_state_refers_to_is_not_buried_with_the_checkpoints_that_have_it_too(place: Place):
    lineage = Lineage(place.open(), "train", None)
    writer = acquire(lineage)
    what = state("s1")
    first = commit(writer, snapshot("c1", files=[(f.key, noise(300_000, 7)) for f in what.files]), keep=1)
    shared = packs(lineage, first)
    record = keep(writer, what)
    assert record.new_bytes == 0
    assert packs(lineage, record) == shared
    writer.drop(["c1"], "a test")
    assert not buried(lineage) & shared
    assert contents(lineage.load(record)) == expected(what)


def test_a_checkpoint_that_was_under_way_before_does_not_take_it_away(place: Place):
    lineage = Lineage(place.open(), "train", None)
    writer = acquire(lineage)
    late = writer.put(snapshot("c1", image("a.img", noise(50_000))), frozen_seconds=0.1)
    record = keep(writer, state("s1"))
    writer.commit(late, keep=Keep(3))
    assert lineage.head().state == record  # type: ignore[union-attr]


def test_the_next_writer_stores_nothing_of_a_state_again(place: Place, key: KeySource | None):
    lineage = Lineage(place.open(), "train", key)
    writer = acquire(lineage)
    what = state("s1")
    commit(writer, snapshot("c1", image("a.img", noise(50_000))))
    keep(writer, what)
    writer.release()
    writer = acquire(Lineage(place.open(), "train", key))
    files = [(file.key, noise(300_000, 7)) for file in what.files]
    record = commit(writer, snapshot("c2", image("a.img", noise(50_000)), files=files))
    assert record.new_bytes == 0


def test_a_writer_that_was_taken_over_keeps_no_state(place: Place):
    lineage = Lineage(place.open(), "train", None)
    writer = acquire(lineage)
    prepared = writer.put(state("s1"), frozen_seconds=0.0)
    acquire(Lineage(place.open(), "train", None), owner(), take_over=True)
    with pytest.raises(FencedError):
        writer.keep_state(prepared)
    assert lineage.head().state is None  # type: ignore[union-attr]
