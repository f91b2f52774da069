"""The diary and the voice of a run."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ckptrun.telemetry.events import EventLog, follow_events, read_events, rfc3339
from ckptrun.telemetry.speak import Level, Speaker

if TYPE_CHECKING:
    from collections.abc import Iterator

DEV_FULL = Path("/dev/full")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


# --- events


def test_events_are_read_as_written(path: Path):
    log = EventLog(path, clock=lambda: 0.25)
    log.emit("run-started", incarnation=1)
    log.emit("run-ended", exit={"by": "job", "code": 0})
    log.close()
    assert list(read_events(path)) == [
        {"time": "1970-01-01T00:00:00.250Z", "event": "run-started", "incarnation": 1},
        {"time": "1970-01-01T00:00:00.250Z", "event": "run-ended", "exit": {"by": "job", "code": 0}},
    ]
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_observer_is_told_of_every_event_also_where_the_disk_is_full(path: Path):
    told: list[dict[str, Any]] = []
    log = EventLog(path, clock=lambda: 0.25)
    log.emit("before")
    log.observe(told.append)
    log.emit("run-ended", state="finished")
    with DEV_FULL.open("wb") as full:
        os.dup2(full.fileno(), log._fd)
    log.emit("after")
    assert [event["event"] for event in told] == ["run-ended", "after"]
    assert told[0] == {"time": "1970-01-01T00:00:00.250Z", "event": "run-ended", "state": "finished"}


def test_times_are_rfc3339_in_utc():
    assert rfc3339(1_700_000_000) == "2023-11-14T22:13:20.000Z"


def test_a_later_run_adds_to_the_same_diary(path: Path):
    for name in ("one", "two"):
        log = EventLog(path)
        log.emit(name)
        log.close()
    assert [event["event"] for event in read_events(path)] == ["one", "two"]


def test_a_line_torn_by_a_crash_is_skipped_and_spoils_no_other(path: Path):
    path.write_bytes(b'{"event": "one"}\n{"event": "tw')
    log = EventLog(path)
    log.emit("three")
    log.close()
    assert [event["event"] for event in read_events(path)] == ["one", "three"]


@pytest.mark.parametrize("line", [b"[]\n", b"null\n", b"\xff\xfe\n", b'{"time": 1}\n', b"\n"])
def test_a_line_that_is_no_event_is_skipped(path: Path, line: bytes):
    path.write_bytes(line + b'{"event": "good"}\n')
    assert [event["event"] for event in read_events(path)] == ["good"]


def test_without_a_file_there_are_no_events(path: Path):
    assert list(read_events(path)) == []


def test_a_full_disk_loses_events_and_nothing_else():
    log = EventLog(DEV_FULL)
    log.emit("one")
    log.emit("two")
    assert log.lost == 2
    log.close()
    log.emit("after the end")


def followed(path: Path, *written: bytes) -> list[str]:
    """Follow a run that writes one piece after each look, and ends behind the last."""
    pieces = list(written)

    def sleep(_seconds: float) -> None:
        with path.open("ab") as file:
            file.write(pieces.pop(0))

    return [event["event"] for event in follow_events(path, lambda: bool(pieces), sleep=sleep)]


def test_following_shows_events_as_they_come_and_ends_with_the_run(path: Path):
    path.write_bytes(b'{"event": "one"}\n')
    assert followed(path, b'{"event": "two"}\n', b'{"event": "three"}\n') == ["one", "two", "three"]


def test_following_waits_for_a_file_that_is_not_there_yet(path: Path):
    assert followed(path, b'{"event": "one"}\n') == ["one"]


def test_following_waits_for_the_rest_of_a_half_written_line(path: Path):
    assert followed(path, b'{"event": "o', b'ne"}\n', b'{"event": "two"}\n') == ["one", "two"]


# --- speak


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


def spoken(pipe: tuple[int, int]) -> bytes:
    os.set_blocking(pipe[0], False)
    try:
        return os.read(pipe[0], 1 << 20)
    except BlockingIOError:
        return b""


def test_every_line_is_prefixed(pipe: tuple[int, int]):
    Speaker(fd=pipe[1]).say("one\ntwo")
    assert spoken(pipe) == b"ckptrun: one\nckptrun: two\n"


@pytest.mark.parametrize(
    ("verbosity", "levels"), [(-1, ["error"]), (0, ["normal", "error"]), (1, ["detail", "normal", "error"])]
)
def test_verbosity_decides_what_is_said(pipe: tuple[int, int], verbosity: int, levels: list[str]):
    speaker = Speaker(verbosity, fd=pipe[1])
    for level in Level:
        speaker.line(level, level.name.lower())
    assert spoken(pipe).decode().split() == [word for level in levels for word in ("ckptrun:", level)]


def test_in_raw_mode_lines_return_to_column_one(pipe: tuple[int, int]):
    speaker = Speaker(fd=pipe[1])
    speaker.raw = True
    speaker.say("one\ntwo")
    assert spoken(pipe) == b"\rckptrun: one\r\nckptrun: two\r\n"


def test_json_is_one_object_a_line_with_its_fields(pipe: tuple[int, int]):
    Speaker(as_json=True, fd=pipe[1], clock=lambda: 0).say("two\nlines", checkpoint="c1")
    line = spoken(pipe)
    assert line.count(b"\n") == 1
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:00.000Z",
        "level": "normal",
        "message": "two\nlines",
        "checkpoint": "c1",
    }


def test_control_characters_of_names_do_not_reach_the_terminal(pipe: tuple[int, int]):
    Speaker(fd=pipe[1]).say("name \x1b[2J\x07 \x9b")
    assert spoken(pipe) == rb"ckptrun: name \x1b[2J\x07 \x9b" + b"\n"


def test_text_that_is_no_unicode_is_escaped(pipe: tuple[int, int]):
    Speaker(fd=pipe[1]).say("file \udcff")
    assert spoken(pipe) == rb"ckptrun: file \udcff" + b"\n"


def test_a_reader_that_went_away_costs_the_line_only(pipe: tuple[int, int]):
    os.close(pipe[0])
    speaker = Speaker(fd=pipe[1])
    speaker.error("nobody reads this")
    assert speaker.lost == 1


def test_a_closed_stderr_costs_the_line_only(pipe: tuple[int, int]):
    os.close(pipe[1])
    speaker = Speaker(fd=pipe[1])
    speaker.error("nobody reads this")
    assert speaker.lost == 1


def test_a_full_pipe_delays_once_and_then_no_more(pipe: tuple[int, int]):
    os.set_blocking(pipe[1], False)
    try:
        while True:
            os.write(pipe[1], b"x" * 65536)
    except BlockingIOError:
        os.set_blocking(pipe[1], True)
    speaker = Speaker(fd=pipe[1])
    started = time.monotonic()
    for _ in range(20):
        speaker.say("the job fills the pipe")
    assert time.monotonic() - started < 2
    assert speaker.lost == 20
    spoken(pipe)
    speaker.say("room again")
    assert spoken(pipe).endswith(b"ckptrun: room again\n")


def test_lines_of_many_threads_do_not_mix(pipe: tuple[int, int]):
    speaker = Speaker(fd=pipe[1])
    threads: list[Any] = [
        threading.Thread(target=lambda word=word: [speaker.say(word * 100) for _ in range(20)])
        for word in "abc"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = spoken(pipe).decode().splitlines()
    assert len(lines) == 60
    assert {line.removeprefix("ckptrun: ") for line in lines} == {word * 100 for word in "abc"}
