"""The job's standard streams: output drained at a freeze, input counted, kept and replayed."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from live import descriptors, wait_until

from ckptrun.capsule import input as inputs
from ckptrun.capsule.input import Input
from ckptrun.capsule.output import Output
from ckptrun.errors import RestoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Said(list[str]):
    def __call__(self, sentence: str) -> None:
        self.append(sentence)


@pytest.fixture
def sink() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(fd)


def test_output_is_carried_in_order_and_counted(sink: tuple[int, int]):
    output = Output(sink[1], "stdout", Said())
    job = output.open()
    for n in range(300):
        os.write(job, b"%d\n" % n)
    os.close(job)
    output.finish(threading.Event())
    expected = b"".join(b"%d\n" % n for n in range(300))
    assert os.read(sink[0], 65536) == expected
    assert output.count == len(expected)


def test_a_drain_of_a_stream_that_the_job_has_closed_takes_nothing_from_who_has_its_descriptor_now(
    sink: tuple[int, int],
):
    output = Output(sink[1], "stdout", Said())
    before = descriptors()
    job = output.open()
    os.write(job, b"all")
    os.close(job)
    wait_until(lambda: descriptors() == before + 2)  # of a pipe that wakes it: its reading end is closed
    others = [os.pipe2(os.O_NONBLOCK) for _ in range(2)]
    for _, writer in others:
        os.write(writer, b"theirs")
    assert output.drain() == 3
    assert [os.read(reader, 100) for reader, _ in others] == [b"theirs"] * 2
    output.finish(threading.Event())
    for pair in others:
        os.close(pair[0])
        os.close(pair[1])


def test_a_drain_takes_all_the_job_has_written_though_our_own_reader_is_slow(sink: tuple[int, int]):
    output = Output(sink[1], "stdout", Said())
    job = output.open()
    os.set_blocking(sink[1], False)
    while True:  # our stdout is full: a terminal stopped by Ctrl-S
        try:
            os.write(sink[1], b"-" * 4096)
        except BlockingIOError:
            break
    os.set_blocking(sink[1], True)
    os.write(job, b"first ")
    wait_until(lambda: output.count == 6)
    os.write(job, b"second ")
    assert output.drain() == 13
    os.write(job, b"third")
    assert output.drain() == 18
    os.close(job)
    got: list[bytes] = []

    def read() -> None:
        while data := os.read(sink[0], 65536):
            got.append(data)

    thread = threading.Thread(target=read)
    thread.start()
    output.finish(threading.Event())
    os.close(sink[1])
    thread.join()
    assert b"".join(got).lstrip(b"-") == b"first second third"


def test_what_is_moved_by_the_kernel_comes_in_order_also_past_a_drain(sink: tuple[int, int]):
    output = Output(sink[1], "stdout", Said(), outlasting=True)
    os.set_blocking(sink[1], False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(sink[1], b"-" * 4096)
    os.set_blocking(sink[1], True)
    job = output.open()
    os.write(job, b"first ")
    assert output.settled, "it lies in the pipe, which outlasts us"
    assert output.drain() == 6
    assert not output.settled, "it lies in our memory"
    os.write(job, b"second")
    got = bytearray()
    while not got.endswith(b"second"):
        got += os.read(sink[0], 65536)
    assert got.lstrip(b"-") == b"first second"
    wait_until(lambda: output.settled)
    assert output.count == 12
    os.close(job)
    output.finish(threading.Event())


def test_another_process_goes_on_with_a_pipe_where_this_one_was(sink: tuple[int, int]):
    first = Output(sink[1], "stdout", Said(), outlasting=True)
    job = first.open()
    os.write(job, b"one ")
    assert os.read(sink[0], 100) == b"one "
    second = Output(sink[1], "stdout", Said(), outlasting=True)
    second.carry(os.dup(first.reader))
    os.write(job, b"two")
    assert os.read(sink[0], 100) == b"two", "once"
    os.close(job)
    first.finish(threading.Event())
    second.finish(threading.Event())


def test_nothing_is_settled_that_does_not_go_into_a_pipe_or_nowhere(tmp_path: Path, sink: tuple[int, int]):
    with (tmp_path / "file").open("wb") as file, Path(os.devnull).open("wb") as null:
        assert not Output(file.fileno(), "stdout", Said(), outlasting=True).settled
        assert Output(null.fileno(), "stdout", Said(), outlasting=True).settled
    assert not Output(sink[1], "stdout", Said()).settled, "nothing outlasts us"


def test_when_nobody_reads_our_output_the_job_gets_a_broken_pipe_now_and_after_a_restore(
    sink: tuple[int, int],
):
    said = Said()
    output = Output(sink[1], "stdout", said)
    os.close(sink[0])
    job = output.open()
    os.write(job, b"x")
    wait_until(lambda: output.broken)

    def broken() -> bool:
        try:
            os.write(job, b"x")
        except BrokenPipeError:
            return True
        return False

    wait_until(broken)
    assert output.drain() == 1
    os.close(job)
    output.finish(threading.Event())
    job = output.open()
    with pytest.raises(BrokenPipeError):
        os.write(job, b"x")
    os.close(job)
    output.finish(threading.Event())
    assert said == []


def test_an_output_that_cannot_be_written_is_said():
    said = Said()
    full = os.open("/dev/full", os.O_WRONLY)
    output = Output(full, "stdout", said)
    job = output.open()
    os.write(job, b"x")
    wait_until(lambda: output.broken)
    assert said == ["stdout cannot be written (No space left on device): the job finds its pipe broken"]
    os.close(job)
    output.finish(threading.Event())
    os.close(full)


class Fed:
    """An input fed by a file or a pipe, and the job's end of it."""

    def __init__(self, source: int) -> None:
        self.said = Said()
        self.input = Input(source, self.said)
        self.job = self.input.open()

    def take(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = os.read(self.job, size - len(data))
            assert part
            data += part
        return data

    def again(self, position: tuple[int, str]) -> None:
        """Restore: a new pipe, from `position` on."""
        self.input.disconnect()
        os.close(self.job)
        self.input.rewind(*position)
        self.job = self.input.open()

    def close(self) -> None:
        self.input.disconnect()
        os.close(self.job)


@pytest.fixture
def feed(tmp_path: Path) -> Iterator[Callable[[bytes], Fed]]:
    opened: list[tuple[Fed, int]] = []

    def make(content: bytes) -> Fed:
        path = tmp_path / str(len(opened))
        path.write_bytes(content)
        source = os.open(path, os.O_RDONLY)
        opened.append((Fed(source), source))
        return opened[-1][0]

    before = descriptors()
    yield make
    for fed, source in opened:
        fed.close()
        os.close(source)
    assert descriptors() == before


LONG = b"".join(b"line %d\n" % n for n in range(60_000))


def test_what_the_job_has_not_read_at_the_freeze_is_read_after_the_restore(feed: Callable[[bytes], Fed]):
    fed = feed(LONG)
    assert fed.take(1000) == LONG[:1000]
    time.sleep(0.05)  # the pipe is full by now
    position = fed.input.position()
    assert position[0] == 1000
    assert fed.take(5000) == LONG[1000:6000]  # the job runs on, then it is lost
    fed.again(position)
    assert fed.take(len(LONG) - 1000) == LONG[1000:]
    assert os.read(fed.job, 1) == b""


def test_input_that_ended_before_the_freeze_is_replayed_too(feed: Callable[[bytes], Fed]):
    fed = feed(b"short input\n")
    assert fed.take(6) == b"short "
    wait_until(lambda: fed.input._writer < 0, what="the end is written")
    position = fed.input.position()
    assert position[0] == 6
    fed.again(position)
    assert fed.take(6) == b"input\n"
    assert os.read(fed.job, 1) == b""
    assert fed.input.position()[0] == 12


def test_a_new_run_reads_the_same_input_on_from_the_checkpoint(feed: Callable[[bytes], Fed]):
    first = feed(LONG)
    first.take(100_000)
    position = first.input.position()
    second = feed(LONG)
    second.again(position)
    assert second.take(len(LONG) - 100_000) == LONG[100_000:]


@pytest.mark.parametrize("other", [b"x" + LONG[1:], LONG[:50_000]])
def test_another_input_is_refused(feed: Callable[[bytes], Fed], other: bytes):
    first = feed(LONG)
    first.take(100_000)
    position = first.input.position()
    second = feed(other)
    second.input.disconnect()
    with pytest.raises(RestoreError, match="standard input"):
        second.input.rewind(*position)


def test_positions_stay_right_through_restores_to_older_checkpoints(feed: Callable[[bytes], Fed]):
    first = feed(LONG)
    first.take(1000)
    old = first.input.position()
    run = feed(LONG)  # a later run of the same command
    run.again(old)
    run.take(500)
    run.input.position()
    run.take(500)
    newer = run.input.position()
    run.again(old)  # the newer one was no good
    run.take(700)
    between = run.input.position()
    first.take(700)
    assert between == first.input.position()
    assert newer[0] == 2000


def test_input_that_no_checkpoint_needs_is_dropped_and_cannot_be_replayed(feed: Callable[[bytes], Fed]):
    fed = feed(LONG)
    fed.take(1000)
    old = fed.input.position()
    fed.take(1000)
    newer = fed.input.position()
    fed.input.forget(newer[0])
    fed.again(newer)
    assert fed.take(10) == LONG[2000:2010]
    fed.input.disconnect()
    with pytest.raises(RestoreError, match="cannot be replayed from byte 1000"):
        fed.input.rewind(*old)


def test_kept_input_is_bounded_and_the_bound_is_said(
    feed: Callable[[bytes], Fed], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(inputs, "KEPT_INPUT_LIMIT", 1 << 18)
    fed = feed(LONG)
    fed.take(len(LONG))
    position = fed.input.position()
    assert len(fed.input._kept) <= 1 << 18
    assert len(fed.said) == 1
    second = feed(LONG)
    second.again(position)
    assert os.read(second.job, 1) == b""


def test_a_job_that_closes_its_input_harms_nothing(feed: Callable[[bytes], Fed]):
    fed = feed(LONG)
    fed.take(10)
    os.close(fed.job)
    wait_until(lambda: fed.input._writer < 0)
    fed.input.position()
    fed.job = os.open("/dev/null", os.O_RDONLY)


def test_an_input_that_is_silent_can_be_disconnected():
    source, producer = os.pipe()
    fed = Fed(source)
    os.write(producer, b"abc")
    assert fed.take(3) == b"abc"
    fed.close()
    os.close(source)
    os.close(producer)
