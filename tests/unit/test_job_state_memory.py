"""`ckptrun.job.state` without ckptrun: a dictionary of the process, with the rules that hold under ckptrun."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ckptrun.job import UsageError, state
from ckptrun.job._state_batch import ENTRY_BYTES
from ckptrun.job._state_memory import MEMORY, Memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    assert os.environ.get("NOTIFY_SOCKET") is None
    yield
    MEMORY.delete_prefix("")


def test_what_was_put_is_there_until_it_is_replaced_or_deleted():
    state.put("a", b"1")
    state.put("b", bytearray(b"2"))
    state.put("a", memoryview(b"3"))
    assert state.get_many(["a", "b", "c"]) == {"a": b"3", "b": b"2"}
    state.delete("a", "never there")
    assert state.get("a") is None


def test_puts_come_after_deletions_of_the_same_batch():
    state.put("a", b"1")
    state.put_many({"b": b"2", "c": b"3"}, delete=["a", "b"])
    assert state.keys() == ["b", "c"]


def test_keys_come_in_the_order_of_code_points():
    names = ["b", "a/2", "a/10", "é", "a", "\U0001f600", "\uffff", "a/"]
    state.put_many(dict.fromkeys(names, b""))
    assert state.keys() == sorted(names)
    assert state.keys() == sorted(names, key=str.encode)  # the order of their bytes is the same
    assert state.keys("a/") == ["a/", "a/10", "a/2"]
    assert state.keys("a", after="a", before="a/2") == ["a/", "a/10"]
    assert state.keys(reverse=True, limit=2) == ["\U0001f600", "\uffff"]
    assert state.keys(limit=0) == []


def test_a_prefix_is_deleted_as_a_whole():
    state.put_many({"t/1": b"", "t/2": b"", "u": b""})
    assert state.delete_prefix("t/") == 2
    assert state.delete_prefix("t/") == 0
    assert state.keys() == ["u"]


@pytest.mark.parametrize(
    "call",
    [
        lambda: state.put("", b""),
        lambda: state.put("é" * 257, b""),
        lambda: state.put("\ud800", b""),
        lambda: state.put(b"a", b""),
        lambda: state.put("a", "text"),
        lambda: state.get_many("abc"),
        lambda: state.put_many({"a": b""}, delete="abc"),
        lambda: state.keys(limit=-1),
        lambda: state.keys(prefix=None),
    ],
)
def test_what_makes_no_sense_is_refused(call: Callable[[], object]):
    with pytest.raises(UsageError):
        call()
    assert state.keys() == []


def test_a_batch_that_finds_no_room_changes_nothing():
    memory = Memory(room=2 * (ENTRY_BYTES + 2))
    memory.put_many({"a": b"1", "b": b"2"}, ())
    with pytest.raises(UsageError, match="the state is full"):
        memory.put_many({"c": b"3"}, ())
    with pytest.raises(UsageError, match="the state is full"):
        memory.put_many({"c": b"3", "d": b"4"}, ["a"])
    memory.put_many({"c": b"3"}, ["a"])
    assert memory.get_many("abc") == {"b": b"2", "c": b"3"}


def test_a_value_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ckptrun.job._state_batch.VALUE_BYTES", 10)
    state.put("a", bytes(10))
    with pytest.raises(UsageError, match="a value has at most 10"):
        state.put("a", bytes(11))


def test_a_forked_child_has_a_copy_of_its_own():
    script = """
import os
from ckptrun.job import state
state.put("a", b"1")
pid = os.fork()
if not pid:
    state.put("a", b"2")
    os._exit(0 if state.get("a") == b"2" else 1)
assert os.waitpid(pid, 0)[1] == 0
assert state.get("a") == b"1"
"""
    subprocess.run([sys.executable, "-c", script], check=True)
