"""The log of what a job does to files, when whoever writes it is killed between reading and writing."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from live import wait_until
from support.processes import PATIENCE

from ckptrun.capsule.container import BATCH
from ckptrun.capsule.spec import Program
from ckptrun.journal import fanotify

if TYPE_CHECKING:
    from live import Machine

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="fanotify needs root")


def names(log: Path) -> list[str]:
    return [event.place.name.decode() for event in fanotify.parse(log.read_bytes()) if event.place]


def is_writing(pid: int) -> bool:
    """Tell whether a process is inside a call of write()."""
    return Path(f"/proc/{pid}/syscall").read_text().split()[0] == "1"


def full_pipe() -> tuple[int, int]:
    """Return both ends of a pipe that takes no byte more."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    return reader, writer


def test_what_was_read_and_not_written_down_is_written_down_by_the_next(machine: Machine, tmp_path: Path):
    group = fanotify.group()
    fanotify.watch_filesystem(group, str(tmp_path))
    batch = os.memfd_create("batch")
    os.posix_fallocate(batch, 0, BATCH)
    reader, writer = full_pipe()
    first = machine.box()
    first.capsule.watch(group, writer, batch)
    made = f"made-{os.getpid()}"
    first.capsule.spawn(Program(["/usr/bin/touch", made], {}, str(tmp_path), pid=1000)).wait(PATIENCE)
    wait_until(lambda: is_writing(first.capsule.init_pid), what="it has read, and cannot write")
    os.kill(first.capsule.init_pid, signal.SIGKILL)
    wait_until(first.gone.is_set, what="its end")
    assert made.encode() in os.pread(batch, BATCH, 0)
    second, log = machine.box(), tmp_path / "log"
    with log.open("ab") as file:
        second.capsule.watch(group, file.fileno(), batch)
    assert made in names(log)
    assert os.pread(batch, BATCH, 0) == bytes(BATCH), "and no third time"
    later = f"later-{os.getpid()}"
    second.capsule.spawn(Program(["/usr/bin/touch", later], {}, str(tmp_path), pid=1000)).wait(PATIENCE)
    second.capsule.sync()
    assert later in names(log)
    assert os.pread(batch, BATCH, 0) == bytes(BATCH)
    for fd in (group, batch, reader, writer):
        os.close(fd)
