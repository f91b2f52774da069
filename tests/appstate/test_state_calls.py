"""The SDK's calls and the supervisor's end of them, over a real channel; this process is the job."""

from __future__ import annotations

import multiprocessing
import os
import random
import subprocess
import threading
from typing import TYPE_CHECKING, Any, cast

import pytest
from statekit import content, files
from support.meeting import Meeting, meet

from ckptrun.appstate import batch as batches
from ckptrun.appstate import compacting
from ckptrun.appstate.mark import Frozen
from ckptrun.errors import StoreUnreachableError
from ckptrun.job import UsageError, _channel, state
from ckptrun.job._state_batch import PART
from ckptrun.job._state_batch import batch as batch_of
from ckptrun.supervisor import jobstate, keptlog
from ckptrun.supervisor.channel import Asked
from ckptrun.supervisor.jobstate import JobState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


ROOM = 8 << 20


class Served:
    """A state with a channel before it, and incarnations as a run has them."""

    def __init__(self, meeting: Meeting, folder: Path) -> None:
        self.meeting = meeting
        self.folder = folder
        self.notes: list[str] = []
        self.number = 1
        self.state = self.new()
        self.state.attach(meeting.channel)
        self.state.begin(None, fresh=True)
        self.state.fresh(1)
        meeting.start()

    def new(self) -> JobState:
        return JobState(self.folder, cast("Any", None), self.notes.append, ROOM)

    def restore(self, frozen: Frozen) -> None:
        """Do what the supervisor does at a restore, as far as the channel and the state are concerned."""
        self.number += 1
        self.meeting.channel.begin(self.number, "c1", {})
        self.meeting.channel.opened(os.getpid())
        self.state.restoring(self.number, "c1", frozen.mark.to_json(), files(frozen))
        self.meeting.live(self.number)

    @property
    def entries(self) -> dict[str, bytes]:
        return content(self.state._log)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Served]:
    with meet(monkeypatch) as meeting:
        yield Served(meeting, tmp_path / "state")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the operations that are asked for, as they are."""
    asked: list[str] = []
    request = _channel.request

    def counting(do: str, timeout: float | None = None, **fields: Any) -> dict[str, Any]:
        asked.append(fields["op"])
        return request(do, timeout, **fields)

    monkeypatch.setattr(_channel, "request", counting)
    return asked


def test_what_is_put_is_there_and_small_calls_are_one_request(served: Served, counted: list[str]):
    state.put("é", b"\0\xff")
    state.put_many({"b": b"2", "c": bytes(PART // 2)}, delete=["é"])
    assert state.get("b") == b"2"
    assert state.get_many(["é", "b", "c", "d"]) == {"b": b"2", "c": bytes(PART // 2)}
    assert state.keys() == ["b", "c"]
    assert state.delete_prefix("") == 2
    assert counted == ["put", "put", "get", "get", "keys", "delete-prefix"]
    assert served.entries == {}


def test_views_of_any_shape_are_their_bytes(served: Served):
    data = bytes(range(24))
    state.put_many(
        {
            "words": memoryview(data).cast("I"),
            "square": memoryview(data).cast("B", [4, 6]),
            "every other": memoryview(data)[::2],
        }
    )
    assert served.entries == {"words": data, "square": data, "every other": data[::2]}


@pytest.mark.parametrize("size", [PART - 100, PART, PART + 1, 3 << 20])
def test_values_of_any_size_come_back_whole(served: Served, size: int):
    value = random.Random(size).randbytes(size)
    state.put("a", value)
    assert state.get("a") == value
    assert state.get_many(["a", "b", "a"]) == {"a": value}
    assert served.entries == {"a": value}


def test_many_values_and_many_keys_pass_through_small_datagrams(served: Served):
    chance = random.Random(0)
    values = {
        f"thread/{number:05}/{'ü' * 80}": chance.randbytes(chance.randrange(400)) for number in range(2000)
    }
    values |= {f"large/{number}": chance.randbytes(60_000 * number) for number in range(4)}
    state.put_many(values)
    assert served.entries == dict(sorted(values.items()))
    names = sorted(values)
    assert state.keys() == names
    assert state.keys(reverse=True, limit=1500) == names[:-1501:-1]
    assert state.keys("thread/", after=names[100], before=names[1900]) == names[101:1900]
    wanted = [*names[::-1], "nothing"]
    assert state.get_many(wanted) == values
    state.delete(*names)
    assert served.entries == {}


def test_what_does_not_fit_is_refused_and_changes_nothing(served: Served):
    state.put("a", b"1")
    for size in (ROOM // 2, ROOM):
        with pytest.raises(UsageError, match="the state is full"):
            state.put_many({"b": bytes(size), "c": bytes(size)})
    assert served.entries == {"a": b"1"}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"op": "put"},
        {"op": "put", "data": "!"},
        {"op": "put", "data": "AAAA"},
        {"op": "put", "upload": "x"},
        {"op": "part", "upload": "x", "at": -1, "total": 3, "data": "AAAA"},
        {"op": "part", "upload": "x", "at": 0, "total": 1, "data": "AAAA"},
        {"op": "get", "keys": "a"},
        {"op": "read", "key": 1, "at": 0},
        {"op": "keys", "prefix": None},
        {"op": "delete-prefix", "prefix": "\ud800"},
    ],
)
def test_whatever_a_job_says_its_state_stays_sound(served: Served, fields: dict[str, Any]):
    state.put("a", b"1")
    with pytest.raises(UsageError):
        _channel.request("state", **fields)
    assert _channel.request("state", op="get", keys=[1, None, "b"])["values"] == [None, None, None]
    assert served.entries == {"a": b"1"}


def test_all_processes_and_threads_share_the_state(served: Served):
    def add(name: str) -> None:
        for number in range(10):
            state.put(f"{name}/{number}", name.encode() * 30_000)

    threads = [threading.Thread(target=add, args=(f"t{number}",)) for number in range(4)]
    children = [multiprocessing.get_context("fork").Process(target=add, args=(f"p{n}",)) for n in range(2)]
    for one in (*children, *threads):
        one.start()
    for one in (*children, *threads):
        one.join(60)
    names = [f"p{n}" for n in range(2)] + [f"t{n}" for n in range(4)]
    assert served.entries == {f"{name}/{n}": name.encode() * 30_000 for name in names for n in range(10)}
    assert all(child.exitcode == 0 for child in children)


def test_a_put_that_was_carried_out_before_the_checkpoint_is_not_carried_out_again(served: Served):
    """Its reply was lost with the restore: the request comes again, with its id."""
    again: list[Callable[[], object]] = []
    exchange = _channel._exchange

    def remembering(box: Any, data: bytes, do: str, deadline: float | None) -> dict[str, Any]:
        again.append(lambda: exchange(_channel._Mailbox(box.name), data, do, deadline))
        return exchange(box, data, do, deadline)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_channel, "_exchange", remembering)
        state.put("a", b"1")
        assert state.delete_prefix("a") == 1
        state.put("a", b"2")
    frozen = served.state.freeze()
    state.put("a", b"3")
    for _ in range(2):
        served.restore(frozen)
        again[0]()
        assert cast("dict[str, Any]", again[1]())["count"] == 1
        assert served.entries == {"a": b"2"}


def test_a_large_put_that_a_restore_comes_upon_is_sent_again(served: Served, monkeypatch: pytest.MonkeyPatch):
    state.put("a", b"1")
    frozen = served.state.freeze()
    value = random.Random(0).randbytes(5 * PART)
    request, asked = _channel.request, []

    def interrupted(do: str, timeout: float | None = None, **fields: Any) -> dict[str, Any]:
        asked.append(fields["op"])
        if asked.count("part") == 4 and "put" not in asked:
            served.restore(frozen)
            asked.append("put")
        return request(do, timeout, **fields)

    monkeypatch.setattr(_channel, "request", interrupted)
    state.put_many({"b": value}, delete=["a"])
    assert served.entries == {"b": value}
    assert asked.count("part") > 6


def test_a_value_that_is_replaced_while_it_is_read_is_read_anew(
    served: Served, monkeypatch: pytest.MonkeyPatch
):
    first, second = b"1" * (3 * PART), b"2" * (2 * PART)
    state.put("a", first)
    request, reads = _channel.request, []

    def interrupted(do: str, timeout: float | None = None, **fields: Any) -> dict[str, Any]:
        if fields["op"] == "read":
            reads.append(fields["at"])
            if len(reads) == 2:
                state.put("a", second)
        return request(do, timeout, **fields)

    monkeypatch.setattr(_channel, "request", interrupted)
    assert state.get("a") == second
    monkeypatch.setattr(_channel, "request", request)
    state.delete("a")
    assert state.get("a") is None
    assert served.entries == {}


def test_after_a_restore_the_state_is_what_it_was_at_the_checkpoint(served: Served):
    state.put_many({"a": b"1", "b": bytes(200_000)})
    frozen = served.state.freeze()
    state.put_many({"a": b"2", "c": b"3"}, delete=["b"])
    served.restore(frozen)
    assert state.get_many(["a", "b", "c"]) == {"a": b"1", "b": bytes(200_000)}


def test_a_request_of_memory_that_has_gone_changes_nothing(served: Served):
    state.put("a", b"1")
    asked: list[Any] = []
    served.meeting.channel.register("state", asked.append, repeatable=True)
    with pytest.raises(state.StateUnavailableError.__mro__[1], match="in time"):
        _channel.request("state", timeout=0.05, op="put", data=_data({"a": b"2"}))
    frozen = served.state.freeze()
    served.restore(frozen)
    served.state._asked(asked[0])
    assert served.entries == {"a": b"1"}


def test_a_request_that_a_restore_overtakes_changes_nothing(served: Served):
    compared = threading.Event()

    class Number(int):
        """Says that it has been looked at."""

        def __ne__(self, other: object) -> bool:
            compared.set()
            return int(self) != other

    state.put("a", b"1")
    frozen = served.state.freeze()
    fields = {"op": "put", "id": "late", "data": _data({"a": b"2"})}
    late = Asked("state", fields, os.getpid(), Number(1), lambda _reply: None)
    thread = threading.Thread(target=served.state._asked, args=(late,))
    with served.state._log.lock:  # it waits for the lock, which a restore has
        thread.start()
        assert compared.wait(30)
        served.restore(frozen)
    thread.join(30)
    assert served.entries == {"a": b"1"}


def test_a_value_that_lies_where_another_one_lay_is_not_taken_for_it(
    served: Served, monkeypatch: pytest.MonkeyPatch
):
    def put(byte: bytes) -> None:
        fields = {"op": "put", "id": "the same", "data": _data({"a": byte * (2 * PART)})}
        served.state._desk.answer(fields)

    put(b"1")
    request, reads = _channel.request, []

    def interrupted(do: str, timeout: float | None = None, **fields: Any) -> dict[str, Any]:
        if fields["op"] == "read":
            reads.append(fields["version"])
            if len(reads) == 2:
                served.restore(Frozen())
                put(b"2")
        return request(do, timeout, **fields)

    monkeypatch.setattr(_channel, "request", interrupted)
    assert state.get("a") == b"2" * (2 * PART)
    assert len(set(reads)) == 1


def _data(values: dict[str, bytes]) -> str:
    import base64  # noqa: PLC0415

    return base64.b64encode(b"".join(batch_of(values, ()))).decode()


@pytest.mark.usefixtures("served")
def test_uploads_make_room_for_others(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(batches, "MOST_UPLOADS", 2)
    for name in ("one", "two", "three"):
        _channel.request("state", op="part", upload=name, at=0, total=6, data="AAAA")
    with pytest.raises(Exception, match="does not know the parts"):
        _channel.request("state", op="part", upload="one", at=3, total=6, data="AAAA")
    _channel.request("state", op="part", upload="three", at=3, total=6, data="AAAA")
    _channel.request("state", op="part", upload="three", at=3, total=6, data="AAAA")  # its reply was lost
    _channel.request("state", op="part", upload="big", at=0, total=ROOM, data="AAAA")
    with pytest.raises(Exception, match="does not know the parts"):
        _channel.request("state", op="part", upload="three", at=6, total=9, data="AAAA")


def test_a_log_of_mostly_garbage_is_compacted_by_itself(served: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compacting, "LEAST_GARBAGE", 100_000)
    compacted = threading.Event()

    def compact(log: Any) -> bool:
        done = compacting.compact(log)
        compacted.set()
        return done

    monkeypatch.setattr(jobstate, "compact", compact)
    number = 0
    while not compacted.is_set():
        number += 1
        state.put("a", bytes([number % 256]) * 50_000)
        assert number < 10_000
    state.put("b", b"end")
    assert served.entries == {"a": bytes([number % 256]) * 50_000, "b": b"end"}


def test_the_next_run_here_goes_on_with_what_could_not_be_stored(served: Served, tmp_path: Path):
    state.put("a", b"1")
    served.state.end(cast("Any", None))
    served.state.close(stored=False)
    assert "next run on this machine" in served.notes[-1]
    again = served.new()
    again.begin(None, fresh=True)
    assert content(again._log) == {"a": b"1"}
    again.close(stored=True)
    assert [path.suffix for path in (tmp_path / "state").iterdir()] == [".json"]
    with pytest.raises(StoreUnreachableError, match="the job's state lies in the store"):
        served.new().begin(None, fresh=True)


def test_an_empty_state_leaves_nothing(served: Served, tmp_path: Path):
    state.put("a", b"1")
    served.restore(Frozen())
    assert served.entries == {}
    served.state.close(stored=False)
    assert not (tmp_path / "state").exists()


def test_a_machine_that_was_started_anew_trusts_only_what_was_synced(
    served: Served, monkeypatch: pytest.MonkeyPatch
):
    state.put("a", b"1")
    monkeypatch.setattr(keptlog, "boot", lambda: "another boot")
    again = served.new()
    again.begin(None, fresh=True)
    assert content(again._log) == {}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder]
    if os.geteuid() or subprocess.run(command, check=False).returncode:
        pytest.skip("cannot mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def put_until_it_fails(size: int) -> None:
    for number in range(20):
        state.put(f"b/{number}", bytes(size))


def test_a_full_disk_is_said_to_the_job_and_tears_nothing(small_disk: Path, monkeypatch: pytest.MonkeyPatch):
    with meet(monkeypatch) as meeting:
        served = Served(meeting, small_disk / "state")
        state.put("a", b"1")
        for size in (80_000, 500_000):
            with pytest.raises(state.StateUnavailableError, match=rf"{small_disk}.*No space left.*make room"):
                put_until_it_fails(size)
            state.delete_prefix("b/")
            assert served.entries == {"a": b"1"}
        subprocess.run(["mount", "-o", "remount,size=16m", small_disk], check=True)
        state.put("c", bytes(80_000))
        assert served.entries == {"a": b"1", "c": bytes(80_000)}
