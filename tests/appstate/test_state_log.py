"""The log of a state: what a kill leaves of it, going back, compacting, and the requests it remembers."""

from __future__ import annotations

import errno
import os
import random
import threading
from typing import TYPE_CHECKING

import pytest
from statekit import content, files, fill, only_file, put

from ckptrun.appstate import compacting, mark
from ckptrun.appstate import log as logs
from ckptrun.appstate.compacting import compact, wasteful
from ckptrun.appstate.index import FEW, MOST_REQUESTS, Index
from ckptrun.appstate.log import Log, load
from ckptrun.appstate.mark import EMPTY, Mark, stored_bytes
from ckptrun.appstate.record import Operation
from ckptrun.errors import CorruptError, StoreFullError, UsageError
from ckptrun.job._state_batch import DELETE, DELETE_PREFIX, ENTRY_BYTES, PUT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "state")


def test_a_job_without_a_state_has_no_file(log: Log, tmp_path: Path):
    assert log.mark() == EMPTY
    assert log.freeze().contents == ()
    assert list(tmp_path.iterdir()) == []


def test_a_record_that_is_not_whole_or_not_sound_does_not_count(log: Log):
    put(log, {"a": b"1", "b": b"2" * 40})
    whole = log.size
    put(log, {"a": b"3", "c": b""}, delete=["b"])
    path = only_file(log.folder)
    data = path.read_bytes()
    assert load(_open(path), len(data))[1] == len(data)
    for length in range(whole, len(data)):
        index, end = load(_open(path), length)
        assert (end, list(index.entries)) == (whole, ["a", "b"])
    for place in range(whole, len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert load(_open(path), len(data))[1] == whole, place


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY)


def test_what_a_killed_run_has_left_is_gone_on_with_behind_its_torn_tail(log: Log):
    put(log, {"a": b"1"})
    whole = log.size
    put(log, {"a": b"2"})
    path = only_file(log.folder)
    with path.open("r+b") as file:
        file.truncate(log.size - 1)

    again = Log(log.folder)
    assert again.adopt(log.generation, EMPTY)
    assert content(again) == {"a": b"1"}
    assert again.mark() == Mark(log.generation, whole)  # as it was called; it goes on under another name
    put(again, {"b": b"3"})
    assert again.mark().generation not in {log.generation, ""}
    assert load(_open(only_file(log.folder)), again.size)[1] == again.size


@pytest.mark.parametrize("seed", range(3))
def test_going_back_brings_every_entry_of_then_from_the_own_log_or_from_a_checkpoint(
    tmp_path: Path, seed: int
):
    chance = random.Random(seed)
    log, other = Log(tmp_path / "here"), Log(tmp_path / "elsewhere")
    model: dict[str, bytes] = {}
    moments = [(log.freeze(), dict(model))]
    for _ in range(4):
        fill(log, model, chance, 25)
        moments.append((log.freeze(), dict(model)))
    for frozen, then in (*moments[::-1], *moments):
        other.go_back(frozen.mark, lambda frozen=frozen: stored_bytes(frozen.mark, files(frozen)))
        log.go_back(frozen.mark, lambda frozen=frozen: stored_bytes(frozen.mark, files(frozen)))
        assert content(log) == content(other) == dict(sorted(then.items()))
        assert log.mark() == other.mark() == frozen.mark
        assert (
            log.index.used == other.index.used == sum(len(k) + len(v) + ENTRY_BYTES for k, v in then.items())
        )
        fill(log, dict(then), chance, 5)  # what comes after it is of no matter to the others


def test_the_own_log_is_enough_for_what_lies_in_it(log: Log):
    put(log, {"a": b"1"})
    then = log.mark()
    put(log, {"a": b"2"})
    log.go_back(then, lambda: pytest.fail("it was read from elsewhere"))
    put(log, {"b": b"3"})
    log.go_back(then, lambda: pytest.fail("it was read from elsewhere"))
    assert content(log) == {"a": b"1"}
    assert len(list(log.folder.iterdir())) == 1


def test_what_a_checkpoint_lacks_or_has_damaged_is_its_damage_and_the_state_stays(log: Log, tmp_path: Path):
    put(log, {"a": b"1" * 100})
    frozen = log.freeze()
    data = b"".join(stored_bytes(frozen.mark, files(frozen)))
    other = Log(tmp_path / "other")
    put(other, {"b": b"2"})
    with pytest.raises(CorruptError, match="is damaged"):
        other.go_back(frozen.mark, lambda: [data[:50], b"x" + data[51:]])
    with pytest.raises(CorruptError, match="is damaged"):
        other.go_back(frozen.mark, lambda: [data[:-1]])
    with pytest.raises(CorruptError, match="missing"):
        other.go_back(frozen.mark, lambda: stored_bytes(frozen.mark, {}))
    assert content(other) == {"b": b"2"}
    assert len(list(other.folder.iterdir())) == 1


def test_a_checkpoint_holds_its_bytes_whatever_becomes_of_the_log(log: Log, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mark, "SEGMENT", 1000)
    put(log, {str(number): bytes([number]) * 300 for number in range(20)})
    frozen = log.freeze()
    assert [file.data.size for file in frozen.contents][:-1] == [1000] * (len(frozen.contents) - 1)
    put(log, {"0": b""})
    longer = log.freeze()
    log.remove()
    assert not list(log.folder.iterdir())
    other = Log(log.folder.parent / "other")
    other.go_back(frozen.mark, lambda: stored_bytes(frozen.mark, files(frozen)))
    assert len(content(other)["0"]) == 300
    # what is complete is called the same in the next checkpoint, and is not read again
    assert {file.key for file in longer.contents} >= {file.key for file in frozen.contents[:-1]}
    assert all(file.fixed for file in longer.contents)


def test_an_unchanged_state_keeps_the_name_it_was_stored_under(log: Log, tmp_path: Path):
    put(log, {"a": b"1"})
    frozen = log.freeze()
    other = Log(tmp_path / "other")
    other.go_back(frozen.mark, lambda: stored_bytes(frozen.mark, files(frozen)))
    assert [file.key for file in other.freeze().contents] == [file.key for file in frozen.contents]
    put(other, {"a": b"2"})
    assert other.mark().generation != frozen.mark.generation


def test_a_batch_is_there_as_a_whole_or_not_at_all_when_the_state_is_full(tmp_path: Path):
    log = Log(tmp_path, room=3 * (ENTRY_BYTES + 2))
    put(log, {"a": b"1", "b": b"2"})
    for batch in ({"c": b"3", "d": b"4"}, {"a": b"1" * 300}):
        with pytest.raises(UsageError, match="the state is full"):
            put(log, batch)
    put(log, {"c": b"3"})
    put(log, {"d": b"4"}, delete=["a"])
    put(log, {}, delete=["b"])
    assert content(log) == {"c": b"3", "d": b"4"}


def test_requests_are_remembered_by_the_log_itself(log: Log):
    put(log, {"a": b"1"}, identity="first")
    index, _ = load(_open(only_file(log.folder)), log.size)
    assert list(index.requests) == ["first"]
    for number in range(MOST_REQUESTS):
        index.remember(str(number), number)
    assert "first" not in index.requests
    assert len(index.requests) == MOST_REQUESTS


def test_compacting_keeps_entries_and_requests_and_little_else(log: Log, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compacting, "LEAST_GARBAGE", 1000)
    monkeypatch.setattr(compacting, "ROUND_BYTES", 500)
    model: dict[str, bytes] = {}
    fill(log, model, random.Random(1), 300)
    put(log, {"last": b"!"}, identity="the last")
    assert wasteful(log)
    before, size = content(log), log.size
    frozen = log.freeze()
    assert compact(log)
    assert content(log) == before == dict(sorted({**model, "last": b"!"}.items()))
    assert log.size < size
    assert "the last" in log.index.requests
    assert content(log) == content(_again(log))
    put(log, {"more": b"1"})
    log.go_back(frozen.mark, lambda: stored_bytes(frozen.mark, files(frozen)))
    assert content(log) == before


def _again(log: Log) -> Log:
    """Return the same log, read anew."""
    index, end = load(_open(only_file(log.folder)), log.size)
    assert (end, index.requests) == (log.size, log.index.requests)
    again = Log(log.folder.parent / "again")
    again.go_back(log.freeze().mark, lambda: stored_bytes(log.freeze().mark, files(log.freeze())))
    return again


def test_what_is_put_while_a_log_is_compacted_is_taken_over(log: Log, monkeypatch: pytest.MonkeyPatch):
    model: dict[str, bytes] = {}
    fill(log, model, random.Random(2), 50)
    written = threading.Event()

    def meanwhile(*_: object) -> None:
        if not written.is_set():
            written.set()
            fill(log, model, random.Random(3), 50)

    after_live(monkeypatch, meanwhile)
    assert compact(log)
    assert written.is_set()
    assert content(log) == dict(sorted(model.items())) == content(_again(log))


def test_a_compaction_that_a_restore_comes_upon_is_dropped(log: Log, monkeypatch: pytest.MonkeyPatch):
    put(log, {"a": b"1"})
    then = log.mark()
    put(log, {"a": b"2"})
    after_live(monkeypatch, lambda: log.go_back(then, list))
    assert not compact(log)
    assert content(log) == {"a": b"1"}
    assert len(list(log.folder.iterdir())) == 1


def after_live(monkeypatch: pytest.MonkeyPatch, do: object) -> None:
    """Have something happen while a log is compacted: once the live entries are written."""
    write_live = compacting._write_live

    def wrapped(*args: object) -> object:
        result = write_live(*args)  # type: ignore[arg-type]
        do()  # type: ignore[operator]
        return result

    monkeypatch.setattr(compacting, "_write_live", wrapped)


@pytest.mark.parametrize("seed", range(5))
def test_keys_are_in_order_however_they_came(seed: int):
    chance = random.Random(seed)
    index, model = Index(), dict[str, int]()
    for _ in range(300):
        for _ in range(chance.choice([1, 3, 2 * FEW])):
            key = chance.choice("abé") * chance.randrange(1, 3) + str(chance.randrange(40))
            kind = chance.choice([PUT, PUT, PUT, DELETE, DELETE_PREFIX])
            if kind == DELETE_PREFIX:
                key = key[:2]
                model = {name: size for name, size in model.items() if not name.startswith(key)}
            elif kind == DELETE:
                model.pop(key, None)
            else:
                model[key] = chance.randrange(9)
            change = [Operation(kind, key, 0, model.get(key, 0) if kind == PUT else 0)]
            assert index.used_after(change) == sum(
                len(name.encode()) + size + ENTRY_BYTES for name, size in model.items()
            )
            index.apply(change)
        prefix = chance.choice(["", "a", "aa1", "é", "zz"])
        after, before = chance.choice([None, "a1", "é"]), chance.choice([None, "b2", "éé"])
        expected = [
            key
            for key in sorted(model)
            if key.startswith(prefix) and key > (after or "") and (before is None or key < before)
        ]
        assert list(index.between(prefix, after, before, reverse=False)) == expected
        assert list(index.between(prefix, after, before, reverse=True)) == expected[::-1]


def test_a_disk_that_is_full_tears_nothing(log: Log, monkeypatch: pytest.MonkeyPatch):
    put(log, {"a": b"1"})
    then, size = log.freeze(), log.size
    write = logs.write

    def full(fd: int, at: int, data: bytes) -> None:
        write(fd, at, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(logs, "write", full)
    with pytest.raises(OSError, match="No space left"):
        put(log, {"a": b"2"})
    with pytest.raises(StoreFullError, match="no room in"):
        Log(log.folder / "other").go_back(then.mark, lambda: stored_bytes(then.mark, files(then)))
    monkeypatch.undo()
    assert only_file(log.folder).stat().st_size == size
    assert list((log.folder / "other").iterdir()) == []
    put(log, {"b": b"3"})
    assert content(log) == content(_again(log)) == {"a": b"1", "b": b"3"}
