"""What somebody else does to journaled files between the end of the job and a rollback."""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from journalkit import CONTENT, Checkpoint, Job, Keeper

from ckptrun.journal import Journal, listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NOBODY = 65534


@contextlib.contextmanager
def attribute(letter: str, path: Path) -> Iterator[None]:
    """Set an attribute that not even root overrules, for a while."""
    done = subprocess.run(["chattr", f"+{letter}", path], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"this filesystem has no such attributes: {done.stderr.decode()}")
    try:
        yield
    finally:
        subprocess.run(["chattr", f"-{letter}", path], check=True)


@pytest.mark.parametrize(("letter", "word"), [("i", "immutable"), ("a", "append-only")])
def test_a_protected_file_stays_with_the_reason_and_comes_back_without_the_protection(
    checkpoint: Checkpoint, file: Path, aside: Path, letter: str, word: str
):
    file.write_bytes(b"changed")
    with attribute(letter, file):
        [problem] = checkpoint.rollback(aside).problems
        assert file.read_bytes() == b"changed"
        assert [path.name for path in file.parent.iterdir()] == ["file"]
    assert f"{file} cannot be rolled back: Operation not permitted (it is {word}: see chattr(1))" in problem
    report = checkpoint.rollback(aside)
    assert (report.problems, report.restored) == ((), (str(file),))
    assert file.read_bytes() == CONTENT


def test_a_changed_file_in_a_protected_folder_is_written_in_place(
    checkpoint: Checkpoint, file: Path, aside: Path
):
    file.write_bytes(b"changed")
    with attribute("i", file.parent):
        assert not checkpoint.rollback(aside).problems
    assert file.read_bytes() == CONTENT
    assert [(aside / entry.id).read_bytes() for entry in listed(aside)] == [b"changed"]


def test_a_file_gone_from_a_protected_folder_is_named_with_the_reason(
    checkpoint: Checkpoint, file: Path, aside: Path
):
    file.unlink()
    with attribute("i", file.parent):
        [problem] = checkpoint.rollback(aside).problems
    assert f"{file} cannot be rolled back: the folder takes no new file (its folder is immutable" in problem
    assert checkpoint.rollback(aside).restored == (str(file),)


@pytest.mark.parametrize("change", ["changed", "longer", "unreadable", "gone", "folder gone"])
def test_an_ordinary_users_file_made_read_only_comes_back(public_folder: Path, change: str):
    """It and its folder are read-only now: the owner may still write it, and its folder takes nothing new."""
    file = public_folder / "folder/file"
    file.parent.mkdir()
    job = Job(public_folder)
    try:
        job.do(f"f = open('folder/file', 'wb', 0); f.write({CONTENT!r})")
        for path in (file, file.parent, public_folder):
            os.chown(path, NOBODY, NOBODY)
        checkpoint = Keeper(public_folder, Journal(1 << 30)).take(job)
    finally:
        job.kill()
    if change in {"changed", "longer", "unreadable"}:
        file.write_bytes(CONTENT + b"tail" if change == "longer" else b"changed")
        file.chmod(0 if change == "unreadable" else 0o444)
    else:
        file.unlink()
    if change == "folder gone":
        file.parent.rmdir()
    elif change != "unreadable":
        file.parent.chmod(0o555)
    said = as_nobody(lambda: "\n".join(checkpoint.rollback(public_folder / "aside").problems))
    if change == "gone":
        assert said == (f"{file} cannot be rolled back: the folder takes no new file; it stays as it is now")
    else:
        assert not said
        assert file.read_bytes() == CONTENT
        assert file.stat().st_mode & 0o777 == 0o644


def as_nobody(action: Callable[[], str]) -> str:
    """Do something as an ordinary user; return what it says."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        text = "it never ended"
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            text = action()
        except BaseException as error:  # noqa: BLE001 - of a process that must end here
            text = repr(error)
        finally:
            os.write(write, text.encode())
            os._exit(0)
    os.close(write)
    with os.fdopen(read, encoding="utf-8") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text


@pytest.mark.parametrize("what", ["file", "dangling symlink"])
def test_something_in_the_place_of_its_folder_is_named_and_stays(
    checkpoint: Checkpoint, file: Path, aside: Path, what: str
):
    file.unlink()
    file.parent.rmdir()
    if what == "file":
        file.parent.write_text("theirs")
        says = f"{file.parent} is no folder any more"
    else:
        file.parent.symlink_to("nowhere")
        says = f"{file.parent} is a symlink to nothing"
    [problem] = checkpoint.rollback(aside).problems
    assert f"{file} cannot be rolled back: {says}; move it away and run the same command again" in problem
    assert what != "file" or file.parent.read_text() == "theirs"
    file.parent.unlink()
    assert checkpoint.rollback(aside).restored == (str(file),)
    assert file.read_bytes() == CONTENT


def test_a_folder_moved_and_linked_to_gets_its_file_where_it_is_now(
    checkpoint: Checkpoint, file: Path, aside: Path, tmp_path: Path
):
    file.write_bytes(b"changed")
    file.parent.rename(tmp_path / "roomier")
    file.parent.symlink_to("roomier")
    assert not checkpoint.rollback(aside).problems
    assert file.parent.is_symlink()
    assert (tmp_path / "roomier/file").read_bytes() == CONTENT


def test_a_symlink_loop_in_the_place_of_its_folder_is_named(checkpoint: Checkpoint, file: Path, aside: Path):
    file.unlink()
    file.parent.rmdir()
    file.parent.symlink_to(file.parent)
    [problem] = checkpoint.rollback(aside).problems
    assert f"{file} cannot be rolled back: Too many levels of symbolic links" in problem


@pytest.mark.parametrize("size", [len(CONTENT), 200_000])
def test_a_log_whose_beginning_somebody_rewrote_is_written_anew_kept_and_said(
    job: Job, keeper: Keeper, tmp_path: Path, aside: Path, size: int
):
    log = tmp_path / "log"
    job.do(f"f = open('log', 'ab', 0); f.write(b'l' * {size})")
    checkpoint = keeper.take(job)
    job.do("f.write(b'more of the job')")
    job.kill()
    theirs = b"rotated" + log.read_bytes()[7:]
    log.write_bytes(theirs)
    report = checkpoint.rollback(aside)
    assert log.read_bytes() == b"l" * size
    assert [(aside / entry.id).read_bytes() for entry in listed(aside)] == [theirs]
    [note] = report.notes
    assert f"{log} no longer began with what the job had appended to it" in note
    assert "ckptrun files" in note


def test_a_file_rewritten_in_place_by_the_job_is_nothing_to_speak_of(
    checkpoint: Checkpoint, file: Path, aside: Path
):
    file.write_bytes(b"changed by the job, as far as anybody knows")
    report = checkpoint.rollback(aside)
    assert (report.restored, report.notes) == ((str(file),), ())
