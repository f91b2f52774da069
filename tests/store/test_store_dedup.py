"""What the lineage has already costs nothing, also for the next writer."""

from __future__ import annotations

import random
import time
from dataclasses import replace

import pytest
import zstandard
from storekit import (
    Place,
    acquire,
    commit,
    contents,
    expected,
    image,
    memory,
    noise,
    noise_pages,
    sample,
    snapshot,
)

from ckptrun.core.model import CELL_SIZE, PAGE_SIZE, BytesSource, FileContent, Snapshot
from ckptrun.store import codec
from ckptrun.store.index import ChunkIndex
from ckptrun.store.pack import Location
from ckptrun.store.repository import Keep, KeySource, Lineage

LITTLE = 2000
"""Bytes: a manifest, and no chunk."""


def test_unchanged_content_adds_a_manifest_only(place: Place, key: KeySource | None):
    writer = acquire(Lineage(place.open(), "train", key))
    commit(writer, sample("c1"))
    second = commit(writer, sample("c2"))
    assert second.new_bytes == 0
    assert second.stored_bytes < LITTLE


def test_the_next_writer_knows_what_is_there(place: Place, key: KeySource | None):
    writer = acquire(Lineage(place.open(), "train", key))
    commit(writer, sample("c1"))
    writer.release()
    lineage = Lineage(place.open(), "train", key)
    record = commit(acquire(lineage), sample("c2"))
    assert record.new_bytes == 0
    assert record.stored_bytes < LITTLE
    assert contents(lineage.load(record)) == expected(sample("c2"))


class Unreadable(BytesSource):
    """A source that must not be read."""

    def read(self, offset: int, length: int) -> memoryview:
        raise AssertionError(f"{length} bytes at {offset} were read again")


def files(name: str, data: bytes, source: type[BytesSource] = BytesSource) -> Snapshot:
    return replace(snapshot(name), files=(FileContent("f-log", source(data), fixed=True),))


LOG = noise(5 << 19) + bytes(3 << 20) + noise(100, 1)
"""Half a piece at its end, and pieces of zeros."""


@pytest.mark.parametrize("again", ["the same writer", "the next writer"])
def test_a_file_whose_key_is_known_is_not_read_again(place: Place, key: KeySource | None, again: str):
    lineage = Lineage(place.open(), "train", key)
    writer = acquire(lineage)
    commit(writer, files("c1", LOG))
    if again == "the next writer":
        writer.release()
        lineage = Lineage(place.open(), "train", key)
        writer = acquire(lineage)
        assert not writer.contents()
        writer.learn()
    for name in ("c2", "c3"):
        record = commit(writer, files(name, LOG, Unreadable))
        assert record.stored_bytes < LITTLE
        assert contents(lineage.load(record)) == {"f-log": LOG}


def test_what_the_store_has_can_be_read_from_it(place: Place, key: KeySource | None):
    writer = acquire(Lineage(place.open(), "train", key))
    commit(writer, files("c1", LOG))
    kept = writer.contents()
    assert list(kept) == ["f-log"]
    source = kept["f-log"]
    assert source.size == len(LOG)
    assert b"".join(source.pieces()) == LOG
    for offset, length in [(0, 10), ((1 << 20) - 5, 10), (len(LOG) - 7, 7), (100, 3 << 20), (5, 0)]:
        assert bytes(source.read(offset, length)) == LOG[offset : offset + length]


def test_a_key_that_does_not_fix_its_bytes_is_read_every_time(directory: Place):
    lineage = Lineage(directory.open(), "train", None)
    writer = acquire(lineage)
    commit(writer, snapshot("c1", files=[("helper", b"old!")]))
    record = commit(writer, snapshot("c2", files=[("helper", b"new!")]))
    assert contents(lineage.load(record)) == {"helper": b"new!"}


def test_what_lies_in_a_distrusted_pack_is_not_counted_on(directory: Place):
    lineage = Lineage(directory.open(), "train", None)
    writer = acquire(lineage)
    first = commit(writer, files("c1", LOG))
    writer.drop([first.id], "damaged")
    assert not list(writer.contents())
    record = commit(writer, files("c2", LOG))
    assert record.new_bytes == first.new_bytes
    assert contents(lineage.load(record)) == {"f-log": LOG}


def test_one_page_inserted_early_changes_one_cell(directory: Place):
    pages = noise_pages(0x10000, 500)
    lineage = Lineage(directory.open(), "train", None)
    writer = acquire(lineage)
    commit(writer, snapshot("c1", memory("pages-1.img", pages)))
    what = snapshot(
        "c2", memory("pages-1.img", {0x3: noise(PAGE_SIZE, 5)} | pages | {0x10010: noise(PAGE_SIZE, 6)})
    )
    record = commit(writer, what)
    assert record.new_bytes == PAGE_SIZE + CELL_SIZE
    assert contents(lineage.load(record)) == expected(what)


def test_the_cell_table_of_unchanged_memory_adds_nothing(directory: Place):
    sparse = {16 * cell: bytes([cell % 251]) * PAGE_SIZE for cell in range(5000)}
    lineage = Lineage(directory.open(), "train", None)
    writer = acquire(lineage)
    first = commit(writer, snapshot("c1", memory("pages-1.img", sparse)))
    second = commit(writer, snapshot("c2", memory("pages-1.img", sparse)))
    assert second.stored_bytes < LITTLE
    changed = sparse | {16 * 2500: noise(PAGE_SIZE)}
    third = commit(writer, snapshot("c3", memory("pages-1.img", changed)))
    assert second.stored_bytes < third.stored_bytes < first.stored_bytes / 3
    assert third.new_bytes == PAGE_SIZE
    assert contents(lineage.load(third)) == expected(snapshot("c3", memory("pages-1.img", changed)))


def test_zeros_cost_nothing(directory: Place, key: KeySource | None):
    lineage = Lineage(directory.open(), "train", key)
    zeros = {page: bytes(PAGE_SIZE) for page in range(100)}
    what = snapshot("c1", memory("pages-1.img", zeros), image("a.img", bytes(3_000_000)))
    record = commit(acquire(lineage), what)
    assert record.new_bytes == 0
    assert record.stored_bytes < LITTLE
    assert list(directory.open().names("train/packs")) == []
    assert contents(lineage.load(record)) == expected(what)
    stored = lineage.load(record).streams[1].data
    assert bytes(stored.read(1_500_000, 10)) == bytes(10)


def test_content_that_repeats_within_a_checkpoint_is_stored_once(directory: Place):
    page = noise(PAGE_SIZE)
    pages = {16 * cell: page for cell in range(1000)}
    record = commit(
        acquire(Lineage(directory.open(), "train", None)), snapshot("c1", memory("pages-1.img", pages))
    )
    assert record.new_bytes == PAGE_SIZE


def test_what_compresses_is_compressed_and_the_rest_is_not_tried():
    text = b"epoch 17 loss 0.25\n" * 3449
    assert len(codec.compress(text)) < len(text) / 20
    raw = noise(CELL_SIZE)
    assert codec.compress(raw) is raw
    hardly = bytes(byte % 220 for byte in raw)
    assert len(zstandard.compress(hardly, codec.LEVEL)) < len(hardly)
    assert codec.compress(hardly) is hardly
    for data in (text, raw, b"", b"x", noise(5000)):
        assert bytes(codec.expand(codec.compress(data), len(data))) == data


def test_the_index_takes_at_most_64_bytes_a_chunk_and_stays_quick():
    index = ChunkIndex()
    ids = [random.Random(n).randbytes(32) for n in range(20_000)]
    pack = index.pack_number("1-s-1")
    started = time.perf_counter()
    for n, chunk in enumerate(ids):
        index.add(chunk, Location(pack, n, 5, 6))
    assert all(index.find(chunk) == Location(pack, n, 5, 6) for n, chunk in enumerate(ids))
    assert index.find(bytes(32)) is None
    assert time.perf_counter() - started < 5
    assert len(index._rows) + 4 * len(index._slots) <= 64 * len(ids)


def test_a_chunk_in_a_distrusted_pack_is_unknown_until_it_is_stored_anew():
    index = ChunkIndex()
    chunk = b"c" * 32
    index.add(chunk, Location(index.pack_number("old"), 1, 2, 3))
    index.distrust(["old"])
    assert index.find(chunk) is None
    anew = Location(index.pack_number("new"), 4, 2, 3)
    index.add(chunk, anew)
    assert index.find(chunk) == anew


def test_a_tombstone_between_put_and_commit_is_stored_anew(place: Place):
    lineage = Lineage(place.open(), "train", None)
    writer = acquire(lineage)
    commit(writer, snapshot("c1", image("a.img", noise(500_000, 1))))
    again = snapshot("again", image("a.img", noise(500_000, 1)))
    prepared = writer.put(again, frozen_seconds=0)
    commit(writer, snapshot("c2", image("a.img", noise(500_000, 2))), keep=1)
    head = lineage.head()
    assert head is not None
    buried = {tombstone.pack for tombstone in head.tombstones}
    assert buried == prepared.packs

    record = writer.commit(prepared, keep=Keep(1))
    for pack in buried:
        place.open().delete(f"train/packs/{pack}")
    stored = Lineage(place.open(), "train", None).load(record)
    assert not {name for name, _ in stored.manifest.packs} & buried
    assert contents(stored) == expected(again)


def test_a_dropped_checkpoints_packs_are_not_built_upon(directory: Place):
    lineage = Lineage(directory.open(), "train", None)
    writer = acquire(lineage)
    first = commit(writer, sample("c1"))
    commit(writer, sample("c2"))
    packs = {name for name, _ in lineage.load(first).manifest.packs}
    writer.drop(["c2"], "a pack is damaged")
    third = commit(writer, sample("c3"))
    assert not {name for name, _ in lineage.load(third).manifest.packs} & packs
    writer.release()
    fourth = commit(acquire(Lineage(directory.open(), "train", None)), sample("c4"))
    assert not {name for name, _ in lineage.load(fourth).manifest.packs} & packs
    assert fourth.new_bytes == 0
    assert [record.id for record in lineage.checkpoints()] == ["c4", "c3", "c1"]
