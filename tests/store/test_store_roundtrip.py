"""What goes in comes out, over every backend, plain and encrypted."""

from __future__ import annotations

import gc
import os
import stat
import subprocess
import sys
import threading
import weakref
from array import array
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from storekit import (
    RUNNING,
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

from ckptrun.core.model import PAGE_SIZE, BytesSource, Exit, ImageStream, MemoryRuns, RunState
from ckptrun.errors import ConfigurationError, UsageError
from ckptrun.store import chunks
from ckptrun.store import head as heads
from ckptrun.store import writer as writers
from ckptrun.store.repository import Keep, KeySource, Lineage, list_lineages, open_backend

if TYPE_CHECKING:
    from pathlib import Path


def test_a_checkpoint_comes_back_exactly(place: Place, key: KeySource | None):
    what = sample("c1")
    writer = acquire(Lineage(place.open(), "train", key))
    writer.set_run(RUNNING)
    record = commit(writer, what)

    again = Lineage(place.open(), "train", key)
    assert again.checkpoints() == (record,)
    stored = again.load(record)
    assert contents(stored) == expected(what)
    assert stored.facts == what.facts
    assert stored.memory_runs("pages-1.img") == what.streams[0].memory
    assert stored.memory_runs("inventory.img") is None
    assert (record.id, record.seq, record.epoch, record.files) == ("c1", 1, 1, 2)
    assert (record.memory_bytes, record.frozen_seconds, record.created) == (45 * PAGE_SIZE, 0.25, 1234.5)
    assert record.labels == {"team": "red"}
    assert record.stored_bytes > 45 * PAGE_SIZE
    assert again.verify(record, quick=False).bad == ()
    assert again.verify(record, quick=True).bad == ()


def test_any_range_can_be_read(place: Place):
    data = noise(2_500_000)
    pages = noise_pages(100, 600) | noise_pages(900_000, 3, 9)
    what = snapshot("c1", image("a.img", data), memory("pages-1.img", pages))
    lineage = Lineage(place.open(), "train", None)
    stored = lineage.load(commit(acquire(lineage), what))
    for stream, original in zip(stored.streams, expected(what).values(), strict=True):
        size = len(original)
        for offset, length in [(0, size), (0, 1), (size - 1, 1), (1_048_570, 20), (65_530, 200_000), (7, 0)]:
            if offset + length <= size:
                assert bytes(stream.data.read(offset, length)) == original[offset : offset + length]
        with pytest.raises(ValueError, match="not inside"):
            stream.data.read(size - 1, 2)


def test_a_lineage_tells_its_run_and_its_checkpoints(place: Place):
    backend = place.open()
    lineage = Lineage(backend, "train", None)
    assert not lineage.exists()
    assert lineage.head() is None
    assert lineage.checkpoints() == ()
    assert list_lineages(backend) == []

    writer = acquire(lineage)
    assert writer.previous is None
    writer.set_run(RUNNING)
    records = [commit(writer, sample(f"c{i}", i)) for i in range(3)]
    ended = replace(RUNNING, state=RunState.FAILED, exit=Exit("job", 3), ended=2000.0)
    writer.close(ended)

    head = lineage.head()
    assert head is not None
    assert head.checkpoints == tuple(reversed(records))
    assert (head.run, head.owner, head.seq, head.epoch) == (ended, None, 3, 1)
    assert list_lineages(backend) == ["train"]
    assert acquire(lineage).previous == ended


def test_retention_keeps_the_last_ones_and_buries_their_packs(place: Place):
    lineage = Lineage(place.open(), "train", None)
    writer = acquire(lineage)
    for i in range(4):
        commit(writer, sample(f"c{i}", 10 * i), keep=2)
    head = lineage.head()
    assert head is not None
    assert [record.id for record in head.checkpoints] == ["c3", "c2"]
    referred = {name for record in head.checkpoints for name, _ in lineage.load(record).manifest.packs}
    buried = {tombstone.pack for tombstone in head.tombstones}
    assert buried
    assert not buried & referred


@pytest.mark.usefixtures("quick_passphrases")
def test_a_key_can_be_a_passphrase(directory: Place):
    lineage = Lineage(directory.open(), "train", KeySource(passphrase="correct horse"))
    record = commit(acquire(lineage), sample("c1"))
    again = Lineage(directory.open(), "train", KeySource(passphrase="correct horse"))
    assert contents(again.load(record)) == expected(sample("c1"))


def test_progress_reaches_the_whole(directory: Place):
    told: list[tuple[int, int]] = []
    writer = acquire(Lineage(directory.open(), "train", None))
    what = snapshot("c1", image("a.img", noise(9_000_000)))
    writer.put(what, frozen_seconds=0, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (9_000_000, 9_000_000)
    assert len(told) >= 2


def test_content_larger_than_a_pack_spans_packs(directory: Place, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(writers, "Packer", _small_packs(writers.Packer))
    what = snapshot("c1", memory("pages-1.img", noise_pages(5, 400)), image("a.img", noise(3_000_000)))
    lineage = Lineage(directory.open(), "train", None)
    stored = lineage.load(commit(acquire(lineage), what))
    assert len(stored.manifest.packs) > 5
    assert contents(stored) == expected(what)


def _small_packs(packer: type) -> object:
    return lambda *args: packer(*args, pack_size=300_000)


def test_an_early_end_of_reading_leaves_no_thread_behind(directory: Place):
    lineage = Lineage(directory.open(), "train", None)
    stored = lineage.load(commit(acquire(lineage), snapshot("c1", image("a.img", noise(30_000_000)))))
    before = threading.active_count()
    pieces = stored.streams[0].data.pieces()
    next(pieces)
    pieces.close()
    assert threading.active_count() == before


def test_files_and_folders_are_for_the_owner_only(directory: Place):
    old = os.umask(0)
    try:
        commit(acquire(Lineage(directory.open(), "train", None)), sample("c1"))
    finally:
        os.umask(old)
    assert directory.folder is not None
    for path in [directory.folder, *directory.folder.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path
    assert not list(directory.folder.rglob(".tmp*"))


def test_a_directory_store_does_not_import_boto3(tmp_path: Path):
    code = (
        "import sys; from ckptrun.store.repository import open_backend, list_lineages;"
        f"list_lineages(open_backend('file://{tmp_path}')); assert 'boto3' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a b", "x" * 101, "-x", "a\n"])
def test_a_bad_name_is_refused(directory: Place, name: str):
    with pytest.raises(ConfigurationError, match="name"):
        Lineage(directory.open(), name, None)


@pytest.mark.parametrize("url", ["file://host/x", "http://x/y", "s3://", "/plain/path", "file:relative"])
def test_another_kind_of_url_is_refused(url: str):
    with pytest.raises(UsageError, match="not a store"):
        open_backend(url, s3_endpoint_url=None)


@st.composite
def runs(draw: st.DrawFn) -> MemoryRuns:
    starts, lengths, page = array("Q"), array("Q"), 0
    for _ in range(draw(st.integers(0, 12))):
        page += draw(st.integers(1, 40)) if starts else draw(st.integers(0, 40))
        count = draw(st.integers(1, 40))
        starts.append(page)
        lengths.append(count)
        page += count
    return MemoryRuns("mm-7", starts, lengths)


@settings(deadline=None)
@given(runs())
def test_cutting_covers_each_page_once_and_can_be_undone(layout: MemoryRuns):
    size = sum(layout.lengths) * PAGE_SIZE
    cuts = list(chunks.cut(layout, size))
    assert sum(c.length for c in cuts) == size
    assert len({c.cell for c in cuts}) == len(cuts)
    assert all(c.bitmap.bit_count() * PAGE_SIZE == c.length and c.bitmap < 1 << 16 for c in cuts)
    starts, lengths = array("Q"), array("Q")
    chunks.runs_of(((c.cell, c.bitmap) for c in cuts), starts, lengths)
    assert (starts, lengths) == (layout.starts, layout.lengths)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layout=runs(), size=st.integers(0, 3_000_000), seed=st.integers(0, 99), zeros=st.booleans())
def test_any_layout_and_size_comes_back(
    directory: Place, layout: MemoryRuns, size: int, seed: int, zeros: bool
):
    bytes_of = bytes if zeros else noise
    pages = ImageStream("pages-1.img", BytesSource(bytes_of(sum(layout.lengths) * PAGE_SIZE)), layout)
    what = snapshot("c1", pages, image("a.img", noise(size, seed)), files=[("f-1", noise(size // 2, seed))])
    lineage = Lineage(directory.open(), "train", None)
    writer = acquire(lineage, take_over=True)
    stored = lineage.load(writer.commit(writer.put(what, frozen_seconds=0), keep=Keep()))
    assert contents(stored) == expected(what)
    if sum(layout.lengths):
        assert stored.memory_runs("pages-1.img") == layout


@pytest.mark.parametrize(
    ("starts", "lengths"),
    [([50, 10], [3, 3]), ([10, 11], [3, 3]), ([10, 20], [3, 30]), ([10], [3]), ([10, 20], [6, 0])],
)
def test_a_layout_that_makes_no_sense_is_stored_all_the_same(
    directory: Place, starts: list[int], lengths: list[int]
):
    layout = MemoryRuns("mm-1", array("Q", starts), array("Q", lengths))
    what = snapshot("c1", ImageStream("pages-1.img", BytesSource(noise(6 * PAGE_SIZE)), layout))
    lineage = Lineage(directory.open(), "train", None)
    stored = lineage.load(commit(acquire(lineage), what))
    assert contents(stored) == expected(what)


class Watched(BytesSource):
    """A source whose end can be seen."""

    __slots__ = ("__weakref__",)


def test_what_a_commit_read_from_is_free_at_once(place: Place, key: KeySource | None):
    gc.disable()
    try:
        writer = acquire(Lineage(place.open(), "train", key))
        source = Watched(noise(3 << 20))
        alive = weakref.ref(source)
        what = snapshot("c1", ImageStream("pages-1.img", source))
        commit(writer, what)
        del what, source
        assert alive() is None
    finally:
        gc.enable()


def test_the_jobs_figures_are_in_the_record_and_older_records_have_none(place: Place):
    lineage = Lineage(place.open(), "train", None)
    record = commit(acquire(lineage), replace(sample("c1"), metrics={"loss": 0.25}))
    assert record.metrics == {"loss": 0.25}
    (found,) = Lineage(place.open(), "train", None).checkpoints()
    assert found.metrics == {"loss": 0.25}
    older = heads.record_to_json(record)
    del older["metrics"]
    assert heads.record_from_json(older) == replace(record, metrics={})
