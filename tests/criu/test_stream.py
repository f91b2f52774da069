"""The image-streamer protocol, spoken with a scripted CRIU."""

from __future__ import annotations

import os
import socket
import struct
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from live import descriptors, wait_until
from support.processes import PATIENCE

from ckptrun.core.model import BytesSource
from ckptrun.criu.capture import CAPTURE_SOCKET, Capture
from ckptrun.criu.serve import SERVE_SOCKET, Serve
from ckptrun.criu.staging import MIB, Slot

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cr-") as name:
        yield Path(name)


class Dumping:
    """CRIU's side of a dump."""

    def __init__(self, folder: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(folder / CAPTURE_SOCKET))

    def request(self, name: str) -> bytes:
        message = b"\x0a" + bytes([len(name)]) + name.encode()
        return struct.pack("<I", len(message)) + message

    def open(self, name: str) -> int:
        self.socket.sendall(self.request(name))
        reader, writer = os.pipe()
        socket.send_fds(self.socket, [b"\0"], [reader])
        os.close(reader)
        return writer

    def image(self, name: str, content: bytes) -> None:
        writer = self.open(name)
        os.write(writer, content)
        os.close(writer)


def test_images_are_whole_when_the_last_one_and_every_other_has_ended(folder: Path):
    before = descriptors()
    capture = Capture(folder, Slot(8 * MIB))
    capture.start()
    criu = Dumping(folder)
    late = criu.open("pages-1.img")
    criu.image("core-1.img", b"core")
    criu.image("inventory.img", b"inventory")
    assert not capture.wait(0.1)
    os.write(late, b"p" * 5000)
    os.close(late)
    assert capture.wait(PATIENCE)
    assert {name: bytes(e.read(0, e.size)) for name, e in capture.images.items()} == {
        "pages-1.img": b"p" * 5000,
        "core-1.img": b"core",
        "inventory.img": b"inventory",
    }
    criu.socket.close()
    capture.close()
    assert descriptors() == before


def test_a_criu_that_goes_before_the_last_image_gives_nothing(folder: Path):
    capture = Capture(folder, Slot(MIB))
    capture.start()
    criu = Dumping(folder)
    criu.image("core-1.img", b"core")
    criu.socket.close()
    assert not capture.wait(PATIENCE)
    capture.close()


def test_a_capture_closed_before_the_end_is_not_whole_and_breaks_the_pipes(folder: Path):
    capture = Capture(folder, Slot(MIB))
    capture.start()
    criu = Dumping(folder)
    writer = criu.open("pages-1.img")
    capture.close()
    assert not capture.wait(0)
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"x")
    os.close(writer)
    criu.socket.close()


def test_closing_again_touches_no_descriptor_of_anyone_else(folder: Path):
    capture = Capture(folder, Slot(MIB))
    capture.start()
    capture.close()
    pairs = [os.pipe() for _ in range(8)]  # they get the numbers that have come free
    capture.close()
    for reader, writer in pairs:
        os.set_blocking(reader, False)
        with pytest.raises(BlockingIOError):
            os.read(reader, 1)
        os.close(reader)
        os.close(writer)


def test_a_capture_that_was_never_started_closes_everything(folder: Path):
    before = descriptors()
    Capture(folder, Slot(MIB)).close()
    assert descriptors() == before


def test_a_criu_stuck_in_the_middle_of_a_message_does_not_hold_a_close_up(folder: Path):
    capture = Capture(folder, Slot(MIB))
    capture.start()
    criu = Dumping(folder)
    criu.socket.sendall(criu.request("pages-1.img")[:3])
    wait_until(lambda: capture.connected is not None)
    time.sleep(0.05)
    closer = threading.Thread(target=capture.close, daemon=True)
    closer.start()
    closer.join(PATIENCE)
    assert not closer.is_alive()
    criu.socket.close()


def fill(writer: int) -> None:
    while True:
        os.write(writer, bytes(4096))


def test_a_slot_that_overflows_is_told_and_breaks_the_pipes(folder: Path):
    capture = Capture(folder, Slot(16 * 1024))
    capture.start()
    criu = Dumping(folder)
    writer = criu.open("pages-1.img")
    with pytest.raises(BrokenPipeError):
        fill(writer)
    os.close(writer)
    assert "larger than staging" in str(capture.error)
    capture.close()
    criu.socket.close()


class Restoring(Dumping):
    """CRIU's side of a restore."""

    def __init__(self, folder: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(folder / SERVE_SOCKET))

    def ask(self, name: str) -> int | None:
        self.socket.sendall(self.request(name))
        size = struct.unpack("<I", self.socket.recv(4))[0]
        if self.socket.recv(size) == b"\x08\x00":
            return None
        reader, writer = os.pipe()
        socket.send_fds(self.socket, [b"\0"], [writer])
        os.close(writer)
        return reader


def content_of(reader: int | None) -> bytes | None:
    if reader is None:
        return None
    with os.fdopen(reader, "rb") as file:
        return file.read()


def test_images_are_served_by_name_empty_ones_too_and_missing_ones_are_denied(folder: Path):
    before = descriptors()
    big = os.urandom(5 * MIB)
    images = {"pages-1.img": big, "empty.img": b"", "core-1.img": b"core"}
    serve = Serve(folder, {name: BytesSource(content) for name, content in images.items()})
    serve.start()
    criu = Restoring(folder)
    for name, content in images.items():
        assert content_of(criu.ask(name)) == content
    assert criu.ask("nothing.img") is None
    criu.socket.close()
    serve.close()
    assert serve.error is None
    assert descriptors() == before


def test_serving_ends_when_told_though_nobody_reads(folder: Path):
    before = descriptors()
    serve = Serve(folder, {"pages-1.img": BytesSource(bytes(8 * MIB))})
    serve.start()
    criu = Restoring(folder)
    reader = criu.ask("pages-1.img")
    assert reader is not None
    closer = threading.Thread(target=serve.close, daemon=True)
    closer.start()
    closer.join(PATIENCE)
    assert not closer.is_alive()
    os.close(reader)
    criu.socket.close()
    assert descriptors() == before


def test_serving_ends_when_told_though_criu_never_came(folder: Path):
    serve = Serve(folder, {})
    serve.start()
    closer = threading.Thread(target=serve.close, daemon=True)
    closer.start()
    closer.join(PATIENCE)
    assert not closer.is_alive()


def test_a_source_that_fails_is_told_and_a_reader_that_has_enough_is_not(folder: Path):
    class Failing(BytesSource):
        def pieces(self) -> Iterator[memoryview]:
            yield memoryview(b"part")
            raise OSError("the store is gone")

    serve = Serve(folder, {"a.img": Failing(b""), "b.img": BytesSource(bytes(8 * MIB))})
    serve.start()
    criu = Restoring(folder)
    reader = criu.ask("b.img")
    assert reader is not None
    os.close(reader)
    assert content_of(criu.ask("a.img")) == b"part"
    criu.socket.close()
    serve.close()
    assert "the store is gone" in str(serve.error)
