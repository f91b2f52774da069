"""Preserved paths that are mount points, hold them, or lie where no files are."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from journalkit import Keeper, mounted

from ckptrun.journal import Journal, Kind, listed

if TYPE_CHECKING:
    from pathlib import Path

    from journalkit import Job

TMPFS = ("-t", "tmpfs", "-o", "size=8m", "none")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    return tmp_path / "tree"


def preserving(tmp_path: Path, *paths: Path | str, limit: int = 1 << 30) -> Keeper:
    return Keeper(tmp_path, Journal(limit, preserve=list(map(str, paths))))


def names(top: Path) -> set[str]:
    return {str(path.relative_to(top)) for path in top.rglob("*")}


def test_a_mount_point_is_rolled_back_and_stays_mounted(
    job: Job, tmp_path: Path, small_disk: Path, aside: Path
):
    (small_disk / "file").write_text("recorded")
    checkpoint = preserving(tmp_path, small_disk).take(job)
    before = small_disk.stat()
    (small_disk / "file").write_text("modified")
    (small_disk / "new").mkdir()
    (small_disk / "new/file").write_text("created")
    report = checkpoint.rollback(aside)
    assert (report.problems, report.notes) == ((), ())
    assert os.path.ismount(small_disk)
    assert (small_disk.stat().st_dev, small_disk.stat().st_ino) == (before.st_dev, before.st_ino)
    assert names(small_disk) == {"file"}
    assert (small_disk / "file").read_text() == "recorded"


def test_a_mount_point_that_is_none_here_is_named_and_its_content_comes_back(
    job: Job, tmp_path: Path, tree: Path, aside: Path
):
    with mounted(tree, *TMPFS):
        (tree / "file").write_text("recorded")
        checkpoint = preserving(tmp_path, tree).take(job)
    (tree / "below").write_text("hidden by the mount, as long as it was there")
    report = checkpoint.rollback(aside)
    assert not report.problems
    [note] = report.notes
    assert f"{tree} was a mount point at the checkpoint and is none here" in note
    assert "mount it and run the same command again" in note
    assert (tree / "file").read_text() == "recorded"
    assert (tree / "below").exists(), "nobody has said that it is the job's"
    with mounted(tree, *TMPFS):
        assert not checkpoint.rollback(aside).notes
        assert names(tree) == {"file"}


def test_what_is_mounted_in_a_tree_after_the_checkpoint_is_left_alone_and_named(
    job: Job, tmp_path: Path, tree: Path, aside: Path
):
    (tree / "sub").mkdir()
    (tree / "sub/file").write_text("recorded")
    checkpoint = preserving(tmp_path, tree).take(job)
    (tree / "extra").mkdir()
    with mounted(tree / "sub", *TMPFS), mounted(tree / "extra", *TMPFS):
        (tree / "sub/theirs").write_text("another disk's")
        (tree / "extra/theirs").write_text("another disk's")
        report = checkpoint.rollback(aside)
        assert not report.problems
        assert [note.partition(" ")[0] for note in report.notes] == [str(tree / "extra"), str(tree / "sub")]
        assert all("has been mounted since the checkpoint" in note for note in report.notes)
        assert names(tree) == {"sub", "sub/file", "sub/theirs", "extra", "extra/theirs"}
        assert not listed(aside)


def test_a_tree_that_another_filesystem_covers_now_keeps_what_that_holds(
    job: Job, tmp_path: Path, tree: Path, aside: Path
):
    (tree / "file").write_text("recorded")
    checkpoint = preserving(tmp_path, tree).take(job)
    with mounted(tree, *TMPFS):
        (tree / "theirs").write_text("another disk's")
        report = checkpoint.rollback(aside)
        assert [note.partition(" ")[0] for note in report.notes] == [str(tree)]
        assert names(tree) == {"file", "theirs"}


def test_a_mounted_folder_in_the_place_of_a_file_is_named_and_keeps_its_files(
    job: Job, tmp_path: Path, tree: Path, aside: Path
):
    (tree / "file").write_text("recorded")
    checkpoint = preserving(tmp_path, tree).take(job)
    (tree / "file").unlink()
    (tree / "file/deep").mkdir(parents=True)
    with mounted(tree / "file/deep", *TMPFS):
        (tree / "file/deep/theirs").write_text("another disk's")
        report = checkpoint.rollback(aside)
        [problem] = report.problems
        assert (
            f"{tree}/file cannot be rolled back: a filesystem is mounted at {tree}/file/deep; unmount it"
            in problem
        )
        assert (tree / "file/deep/theirs").read_text() == "another disk's"
    assert not checkpoint.rollback(aside).problems
    assert (tree / "file").read_text() == "recorded"


def test_a_preserved_file_that_is_a_mount_point_is_written_in_place(job: Job, tmp_path: Path, aside: Path):
    (tmp_path / "source").write_text("recorded")
    (tmp_path / "file").touch()
    with mounted(tmp_path / "file", "--bind", str(tmp_path / "source")):
        checkpoint = preserving(tmp_path, tmp_path / "file").take(job)
        (tmp_path / "file").write_text("modified")
        report = checkpoint.rollback(aside)
        assert (report.problems, report.notes) == ((), ())
        assert (tmp_path / "source").read_text() == "recorded"


def test_the_kernels_own_filesystems_are_not_part_of_a_tree(
    job: Job, tmp_path: Path, tree: Path, aside: Path
):
    (tree / "proc").mkdir()
    (tree / "file").write_text("recorded")
    with mounted(tree / "proc", "-t", "proc", "none"):
        checkpoint = preserving(tmp_path, tree).take(job)
        kinds = {record.path: record.kind for record in checkpoint.records}
        assert kinds == {
            str(tree): Kind.DIRECTORY,
            str(tree / "file"): Kind.FILE,
            str(tree / "proc"): Kind.SKIPPED,
        }
        (tree / "file").write_text("modified")
        report = checkpoint.rollback(aside)
        assert (report.problems, report.notes) == ((), ())
    assert (tree / "file").read_text() == "recorded"


def test_a_preserved_path_on_a_filesystem_of_the_kernels_own_is_named(job: Job, tmp_path: Path, tree: Path):
    checkpoint = preserving(tmp_path, "/proc/sys", tree).take(job)
    assert checkpoint.capture.inexact == ("/proc/sys",)
    assert "is on a filesystem of the kernel's own (proc)" in checkpoint.capture.problems[0]
    assert [record.path for record in checkpoint.records] == [str(tree)]
