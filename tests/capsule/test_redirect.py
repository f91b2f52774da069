"""Cutting redirected output back: what the job wrote goes, what others wrote stays, another file is left alone."""

from __future__ import annotations

import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest

from ckptrun.capsule.redirect import FileMark, Redirect
from ckptrun.journal import keep_tail, listed

if TYPE_CHECKING:
    from collections.abc import Callable

Redirected: TypeAlias = "Callable[..., tuple[Redirect, int, list[str]]]"

APPEND, TRUNCATE = os.O_WRONLY | os.O_APPEND | os.O_CREAT, os.O_WRONLY | os.O_CREAT
BOTH = pytest.mark.parametrize("flags", [APPEND, TRUNCATE], ids=["append", "at an offset"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.txt"


@pytest.fixture
def redirected(path: Path) -> Redirected:
    """Open the file as a shell would, write-only, and redirect to it."""

    def open_(flags: int = APPEND) -> tuple[Redirect, int, list[str]]:
        fd = os.open(path, flags, 0o600)
        said: list[str] = []
        return Redirect(fd, said.append), fd, said

    return open_


def write(file: Redirect, fd: int, text: str) -> None:
    assert file.write(fd, memoryview(text.encode())) == len(text)


def append(path: Path, text: str) -> None:
    with path.open("a", encoding="ascii") as other:
        other.write(text)


def back(file: Redirect, mark: FileMark, aside: Path) -> int:
    return file.go_back(mark, lambda where, size: keep_tail(Path(where), size, aside=aside))


@BOTH
def test_what_was_written_since_goes_and_is_kept_aside(
    redirected: Redirected, path: Path, tmp_path: Path, flags: int
):
    file, fd, said = redirected(flags)
    write(file, fd, "one\n")
    mark = file.mark(fd)
    write(file, fd, "two\n")
    assert back(file, mark, tmp_path / "aside") == 4
    write(file, fd, "2\n")
    assert path.read_text() == "one\n2\n"
    (kept,) = listed(tmp_path / "aside")
    assert (kept.path, kept.offset, kept.bytes) == (str(path), 4, 4)
    assert back(file, mark, tmp_path / "aside") == 2
    assert said == []


def test_what_others_appended_stays_in_its_order(redirected: Redirected, path: Path, tmp_path: Path):
    file, fd, said = redirected()
    append(path, "theirs 0\n")
    write(file, fd, "ours 0\n")
    first = file.mark(fd)
    for number in range(1, 4):
        write(file, fd, f"ours {number}\n")
        append(path, f"theirs {number}\n")
    second = file.mark(fd)
    write(file, fd, "ours 4\n")
    append(path, "theirs 4\n")
    assert back(file, second, tmp_path / "aside") == len("ours 4\n")
    assert path.read_text().splitlines()[-3:] == ["ours 3", "theirs 3", "theirs 4"]
    write(file, fd, "ours 4\n")
    assert back(file, first, tmp_path / "aside") == 4 * len("ours 4\n")
    expected = ["theirs 0", "ours 0", *(f"theirs {number}" for number in range(1, 5))]
    assert path.read_text().splitlines() == expected
    assert said == []


@BOTH
def test_what_came_through_the_same_descriptor_stays_too(
    redirected: Redirected, path: Path, tmp_path: Path, flags: int
):
    file, fd, _ = redirected(flags)
    write(file, fd, "ours 0\n")
    mark = file.mark(fd)
    stop = threading.Event()
    count = 0

    def others() -> None:
        nonlocal count
        while not stop.is_set():
            os.write(fd, b"theirs %06d\n" % count)
            count += 1

    thread = threading.Thread(target=others)
    thread.start()
    for number in range(500):
        write(file, fd, f"ours {number:06d}\n")
    stop.set()
    thread.join()
    assert back(file, mark, tmp_path / "aside") == 500 * len("ours 000000\n")
    write(file, fd, "end\n")
    expected = ["ours 0", *(f"theirs {number:06d}" for number in range(count)), "end"]
    assert path.read_text().splitlines() == expected


def test_what_was_there_before_this_process_counts_as_the_jobs(
    redirected: Redirected, path: Path, tmp_path: Path
):
    file, fd, _ = redirected()
    write(file, fd, "one\n")
    mark = file.mark(fd)
    write(file, fd, "two\n")
    later, again, said = redirected()
    os.write(again, b"a note\n")
    assert back(later, mark, tmp_path / "aside") == 4
    assert path.read_text() == "one\na note\n"
    assert said == []


def test_a_file_with_the_same_content_is_the_same_on_another_machine(
    redirected: Redirected, path: Path, tmp_path: Path
):
    file, fd, _ = redirected()
    write(file, fd, "one\n")
    mark = replace(file.mark(fd), device=12345)
    write(file, fd, "two\n")
    shutil.copy(path, tmp_path / "copy")
    (tmp_path / "copy").rename(path)
    later, _, said = redirected()
    assert back(later, mark, tmp_path / "aside") == 4
    assert path.read_text() == "one\n"
    assert said == []


@pytest.mark.parametrize("before", ["one\n", ""])
def test_another_file_is_left_alone(redirected: Redirected, path: Path, tmp_path: Path, before: str):
    file, fd, _ = redirected()
    if before:
        write(file, fd, before)
    mark = file.mark(fd)
    path.unlink()
    append(path, "something else\n")
    later, _, said = redirected()
    assert back(later, mark, tmp_path / "aside") == 0
    assert path.read_text() == "something else\n"
    assert bool(said) == bool(before)
    elsewhere = Redirect(os.open(tmp_path / "new.txt", APPEND), said.append)
    del said[:]
    assert back(elsewhere, mark, tmp_path / "aside") == 0
    assert said == []


@BOTH
def test_a_file_that_was_emptied_meanwhile_is_said_and_gets_no_hole(
    redirected: Redirected, path: Path, tmp_path: Path, flags: int
):
    file, fd, said = redirected(flags)
    write(file, fd, "one\n")
    mark = file.mark(fd)
    write(file, fd, "two\n")
    os.truncate(path, 0)
    assert back(file, mark, tmp_path / "aside") == 0
    assert "4 bytes shorter" in said[0]
    write(file, fd, "2\n")
    assert path.read_text() == "2\n"
    assert back(file, replace(mark, at=0, tail=""), tmp_path / "aside") == 2


@BOTH
def test_a_file_that_lost_its_name_is_cut_all_the_same(
    redirected: Redirected, path: Path, tmp_path: Path, flags: int
):
    file, fd, said = redirected(flags)
    write(file, fd, "one\n")
    mark = file.mark(fd)
    write(file, fd, "two\n")
    path.unlink()
    assert back(file, mark, tmp_path / "aside") == 4
    assert os.fstat(fd).st_size == 4
    assert said == []


def test_a_mark_of_an_older_version_is_known_by_its_inode(redirected: Redirected, path: Path, tmp_path: Path):
    file, fd, _ = redirected()
    write(file, fd, "one\n")
    mark = FileMark(str(path), os.fstat(fd).st_dev, os.fstat(fd).st_ino, 4)
    write(file, fd, "two\n")
    assert back(file, mark, tmp_path / "aside") == 4
