"""Staging: extents read back what was appended; slots are bounded, warmed and given back."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from typing import TYPE_CHECKING

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptrun.criu.staging import MIB, PIECE, Arena, ArenaFullError, Extents, Slot
from ckptrun.errors import DumpError
from ckptrun.supervisor import pressure

if TYPE_CHECKING:
    from pathlib import Path

SMALL = Slot(64 * 1024)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.binary(min_size=1, max_size=600)), max_size=40),
    st.data(),
)
def test_streams_interleaved_at_random_read_back_whole_and_in_part(
    appends: list[tuple[int, bytes]], data: st.DataObject
):
    slot = SMALL
    slot.used = 0
    streams = [Extents(slot) for _ in range(4)]
    contents = [b""] * 4
    for number, part in appends:
        slot.view[slot.used : slot.used + len(part)] = part
        streams[number].append(slot.used, len(part))
        slot.used += len(part)
        contents[number] += part
    for extents, content in zip(streams, contents, strict=True):
        assert extents.size == len(content)
        assert b"".join(extents.pieces()) == content
        assert bytes(extents.read(0, len(content))) == content
        start = data.draw(st.integers(0, len(content)))
        length = data.draw(st.integers(0, len(content) - start))
        assert bytes(extents.read(start, length)) == content[start : start + length]


def test_neighbouring_appends_are_one_extent_and_read_without_a_copy():
    slot = Slot(MIB)
    extents = slot.put([b"abc", b"def"])
    assert extents.offsets == [0]
    assert isinstance(extents.read(1, 4), memoryview)
    assert bytes(extents.read(1, 4)) == b"bcde"


def test_pieces_are_of_convenient_size():
    slot = Slot(3 * PIECE)
    extents = slot.put([bytes(2 * PIECE + 5)])
    assert [len(piece) for piece in extents.pieces()] == [PIECE, PIECE, 5]


def test_a_full_slot_names_the_option_that_helps():
    slot = Slot(16 * 1024)
    slot.put([bytes(16 * 1024)])
    with pytest.raises(ArenaFullError, match=r"larger than staging .*--staging"):
        slot.put([b"x"])


def resident() -> int:
    return psutil.Process().memory_info().rss


def test_memory_given_back_leaves_this_process_also_what_a_dump_used_past_the_warm_part():
    slot = Slot(96 * MIB)
    slot.populate(32 * MIB)
    slot.put([bytes(MIB)] * 80)
    full = resident()
    slot.give_back(16 * MIB)
    assert full - resident() > 60 * MIB
    assert slot.populated == 16 * MIB


def ready(arena: Arena, size: int) -> None:
    event = threading.Event()
    arena.prepare(size, event.set)
    assert event.wait(20)


def test_a_prepared_slot_is_the_one_that_is_taken():
    arena = Arena(256 * MIB)
    ready(arena, 1)
    first = arena.take()
    assert first.populated >= 1
    assert arena.held == first.populated
    ready(arena, 1)
    arena.give(first)
    ready(arena, 32 * MIB)
    assert arena.take().populated >= 32 * MIB


def test_overlapping_preparations_do_not_overrun_the_slot():
    arena = Arena(128 * MIB, slots=1)
    events = [threading.Event() for _ in range(4)]
    for event in events:
        arena.prepare(200 * MIB, event.set)
    assert all(event.wait(20) for event in events)
    slot = arena.take()
    assert slot.populated == slot.capacity


def test_an_arena_whose_slots_are_all_needed_says_so():
    arena = Arena(64 * MIB)
    slots = [arena.take(), arena.take()]
    with pytest.raises(DumpError, match="not committed yet"):
        arena.take()
    arena.give(slots[0])
    assert arena.take().used == 0


def test_a_closed_arena_reports_nothing_any_more():
    arena = Arena(64 * MIB)
    arena.close()
    told: list[int] = []
    arena.prepare(MIB, lambda: told.append(1))
    assert arena._worker
    arena._worker.join()
    assert told == []


def test_a_dump_too_large_for_memory_goes_to_a_nameless_file(tmp_path: Path):
    arena = Arena(64 * MIB, spool=tmp_path)
    slot = arena.take(100 * MIB)
    extents = slot.put([b"x" * MIB, b"y" * MIB])
    assert (bytes(extents.read(MIB - 1, 2)), slot.on_disk) == (b"xy", True)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_slot_gives_its_room_back(tmp_path: Path):
    arena = Arena(0, spool=tmp_path)
    free = shutil.disk_usage(tmp_path).free
    slot = arena.take(256 * MIB)
    taken = free - shutil.disk_usage(tmp_path).free
    arena.give(slot)
    del slot
    assert taken > 256 * MIB
    assert free - shutil.disk_usage(tmp_path).free < 128 * MIB


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_a_full_disk_is_said_before_anything_is_dumped(tmp_path: Path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "small", tmp_path], check=True)
    try:
        with pytest.raises(DumpError, match="has no room either"):
            Arena(0, spool=tmp_path).take(100 * MIB)
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


def test_staging_is_given_back_while_memory_is_short(monkeypatch: pytest.MonkeyPatch):
    relieved, stop = threading.Event(), threading.Event()
    monkeypatch.setattr(pressure, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(pressure, "available_memory", lambda: MIB)
    pressure.watch(relieved.set, stop)
    assert relieved.wait(5)
    stop.set()
