"""Whatever is done to files between capture and rollback, they come back as captured."""

from __future__ import annotations

import mmap
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journalkit import Keeper

from ckptrun.journal import Journal

pytestmark = pytest.mark.slow


NAMES = ("one", "two", "three")
SIZES = st.one_of(st.integers(0, 100), st.integers(60_000, 70_000), st.integers(0, 300_000))
DATA = st.builds(lambda byte, size: bytes([byte]) * size, st.integers(0, 3), SIZES)

ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("open"), st.sampled_from(NAMES), st.sampled_from(("ab", "r+b", "w+b", "x+b"))),
        st.tuples(st.just("close"), st.sampled_from(NAMES)),
        st.tuples(st.just("write"), st.sampled_from(NAMES), DATA),
        st.tuples(st.just("write at"), st.sampled_from(NAMES), SIZES, DATA),
        st.tuples(st.just("truncate"), st.sampled_from(NAMES), SIZES),
        st.tuples(st.just("map"), st.sampled_from(NAMES)),
        st.tuples(st.just("store"), st.sampled_from(NAMES), st.integers(0, 255)),
        st.tuples(st.just("unmap"), st.sampled_from(NAMES)),
        st.tuples(st.just("rename"), st.sampled_from(NAMES), st.sampled_from(NAMES)),
        st.tuples(st.just("link"), st.sampled_from(NAMES)),
        st.tuples(st.just("unlink"), st.sampled_from(NAMES)),
        st.tuples(st.just("chmod"), st.sampled_from(NAMES), st.sampled_from((0o600, 0o644, 0o444))),
        st.tuples(st.just("old"), st.sampled_from(NAMES)),
        st.tuples(st.just("checkpoint")),
        st.tuples(st.just("prepare")),
    ),
    min_size=1,
    max_size=12,
)
STAGES = st.lists(ACTIONS, min_size=2, max_size=4)
"""What the program does before and after each checkpoint but the last, and after that one."""


class Program:
    """This very process as the job: it is frozen whenever it is busy capturing."""

    def __init__(self, top: Path, keeper: Keeper) -> None:
        self.top = top
        self.keeper = keeper
        self.files: dict[str, int] = {}
        self.maps: dict[str, mmap.mmap] = {}
        self.prepared = None
        self.checkpoint = None
        self.pictures: dict[str, object] = {}

    def act(self, action: tuple[object, ...]) -> None:
        getattr(self, "do_" + str(action[0]).replace(" ", "_"))(*action[1:])

    def do_open(self, name: str, mode: str) -> None:
        flags = {
            "ab": os.O_WRONLY | os.O_APPEND | os.O_CREAT,
            "r+b": os.O_RDWR | os.O_CREAT,
            "w+b": os.O_RDWR | os.O_CREAT | os.O_TRUNC,
            "x+b": os.O_RDWR | os.O_CREAT,
        }
        self.do_close(name)
        self.files[name] = os.open(self.top / name, flags[mode], 0o644)

    def do_close(self, name: str) -> None:
        if name in self.files:
            os.close(self.files.pop(name))

    def do_write(self, name: str, data: bytes) -> None:
        if name in self.files:
            os.write(self.files[name], data)

    def do_write_at(self, name: str, offset: int, data: bytes) -> None:
        if name in self.files:
            os.pwrite(self.files[name], data, offset)

    def do_truncate(self, name: str, size: int) -> None:
        if name in self.files and name not in self.maps:
            os.ftruncate(self.files[name], size)

    def do_map(self, name: str) -> None:
        with suppress(KeyError, ValueError, PermissionError):
            self.do_unmap(name)
            self.maps[name] = mmap.mmap(self.files[name], 0)
            self.maps[name][:]

    def do_store(self, name: str, byte: int) -> None:
        if name in self.maps:
            mapping = self.maps[name]
            if mapping.size() >= len(mapping):  # else another open has cut the file: SIGBUS
                mapping[len(mapping) * byte // 256] = byte

    def do_unmap(self, name: str) -> None:
        if name in self.maps:
            self.maps.pop(name).close()

    def do_rename(self, name: str, other: str) -> None:
        if name != other and other not in self.maps and os.path.lexists(self.top / name):
            (self.top / name).rename(self.top / other)

    def do_link(self, name: str) -> None:
        with suppress(FileNotFoundError, FileExistsError):
            os.link(self.top / name, self.top / f"{name}.link")

    def do_unlink(self, name: str) -> None:
        with suppress(FileNotFoundError):
            (self.top / name).unlink()

    def do_chmod(self, name: str, mode: int) -> None:
        with suppress(FileNotFoundError):
            (self.top / name).chmod(mode)

    def do_old(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.utime(self.top / name, ns=(5, 5))

    def do_prepare(self) -> None:
        self.prepared = self.keeper.journal.prepare([os.getpid()], self.keeper.put, self.keeper.previous)

    def do_checkpoint(self) -> None:
        if self.prepared is None:
            self.do_prepare()
        frozen = self.keeper.journal.capture(self.prepared, [os.getpid()], self.keeper.put)
        self.checkpoint = self.keeper.keep(self.keeper.journal.seal(frozen))
        self.prepared = None
        assert all("no longer has" in problem for problem in self.checkpoint.capture.problems)
        self.pictures = {record.path: picture(record.path) for record in self.checkpoint.records}

    def end(self) -> None:
        for name in NAMES:
            self.do_unmap(name)
            self.do_close(name)


def picture(path: str) -> object:
    status = os.lstat(path)
    content = (
        Path(path).read_bytes()
        if stat.S_ISREG(status.st_mode)
        else sorted(entry.name for entry in Path(path).iterdir())
    )
    return status.st_mode, status.st_mtime_ns, content


def run(stages: list[list[tuple[object, ...]]], where: Path, preserve: bool) -> None:
    top = Path(tempfile.mkdtemp(dir=where))
    aside = top.with_name(f"{top.name}.aside")
    journal = Journal(1 << 30, preserve=[str(top)] if preserve else [], ignore=["/dev/null"])
    program = Program(top, Keeper(top, journal))
    try:
        for stage, actions in enumerate(stages):
            for name, mode in zip(NAMES, ("ab", "r+b", "r+b"), strict=True):
                if name not in program.files:
                    program.do_open(name, mode)
            for action in actions:
                program.act(action)
            if stage < len(stages) - 1:
                program.do_checkpoint()
        program.end()
        report = program.checkpoint.rollback(aside)
        assert not report.problems
        assert {path: picture(path) for path in program.pictures} == program.pictures
        again = program.checkpoint.rollback(aside)
        assert again.restored + again.truncated == ()
    finally:
        program.end()
        shutil.rmtree(top)
        shutil.rmtree(aside, ignore_errors=True)


@pytest.mark.parametrize("preserve", [False, True], ids=["open files", "preserved tree"])
@settings(max_examples=100, deadline=None)
@given(stages=STAGES)
def test_files_come_back_as_captured(
    stages: list[list[tuple[object, ...]]], preserve: bool, tmp_path_factory: pytest.TempPathFactory
):
    run(stages, tmp_path_factory.getbasetemp(), preserve)


@settings(max_examples=100, deadline=None)
@given(stages=STAGES)
def test_files_on_a_filesystem_in_memory_come_back_as_captured(stages: list[list[tuple[object, ...]]]):
    run(stages, Path("/dev/shm"), preserve=False)
