from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from journalkit import CONTENT, Checkpoint, Job, Keeper, age

from ckptrun.core.model import BytesSource
from ckptrun.errors import CorruptError, StoreFullError
from ckptrun.journal import Journal, keep_tail, listed, moved, rollback

if TYPE_CHECKING:
    from pathlib import Path


def kept(aside: Path) -> dict[str, bytes]:
    """Return reason -> bytes of what is set aside."""
    return {entry.reason: (aside / entry.id).read_bytes() for entry in listed(aside)}


def test_an_unchanged_file_is_not_touched(checkpoint: Checkpoint, file: Path, aside: Path):
    before = file.stat()
    report = checkpoint.rollback(aside)
    assert report.untouched == (str(file),)
    assert (file.stat().st_ino, file.stat().st_ctime_ns) == (before.st_ino, before.st_ctime_ns)
    assert not listed(aside)


def test_a_longer_file_is_cut_back_to_the_byte_and_its_tail_kept(
    checkpoint: Checkpoint, file: Path, aside: Path
):
    before = file.stat()
    with file.open("ab") as log:
        log.write(b"lost step")
    report = checkpoint.rollback(aside)
    assert report.truncated == (str(file),)
    assert file.read_bytes() == CONTENT
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert kept(aside) == {"cut back": b"lost step"}
    assert report.set_aside[0].offset == len(CONTENT)


@pytest.mark.parametrize("now", [b"", b"short", CONTENT[:-1] + b"X", b"X" + CONTENT])
def test_a_different_file_is_rewritten_and_kept(checkpoint: Checkpoint, file: Path, aside: Path, now: bytes):
    before = file.stat()
    file.write_bytes(now)
    report = checkpoint.rollback(aside)
    assert report.restored == (str(file),)
    assert file.read_bytes() == CONTENT
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert kept(aside) == {"replaced": now}


def test_a_file_that_the_job_had_open_keeps_its_inode(job: Job, keeper: Keeper, tmp_path: Path, aside: Path):
    file = tmp_path / "file"
    job.do(
        "f = open('file', 'wb', 0); f.write(b'then'); g = open('closed', 'wb'); g.write(b'then'); g.close()"
    )
    checkpoint = keeper.take(job)
    inode = file.stat().st_ino
    job.do("f.seek(0); f.write(b'now and more')")
    job.do("f.seek(0); f.write(b'N')")
    checkpoint.rollback(aside)
    assert (file.read_bytes(), file.stat().st_ino) == (b"then", inode)
    assert kept(aside) == {"replaced": b"Now and more"}


def test_databases_that_a_job_may_take_for_replaced_are_told(
    job: Job, keeper: Keeper, tmp_path: Path, aside: Path
):
    job.do(
        "import sqlite3; bases = [sqlite3.connect(name) for name in ('same', 'other')]; log = open('log', 'a')"
    )
    job.do("[base.execute('create table t(n)') for base in bases]; [base.commit() for base in bases]")
    checkpoint = keeper.take(job)
    then = {path.name: path.stat() for path in tmp_path.iterdir() if path.is_file()}
    for name in ("other", "log"):
        (tmp_path / name).unlink()
        (tmp_path / f"keeps the inode of {name}").touch()
    checkpoint.rollback(aside)
    now = (tmp_path / "other").stat()
    expected = {(then["other"].st_dev, then["other"].st_ino): (now.st_dev, now.st_ino)}
    assert moved(checkpoint.records, "") == expected


def test_a_change_that_left_size_and_times_is_found(checkpoint: Checkpoint, file: Path, aside: Path):
    before = file.stat()
    file.write_bytes(CONTENT.upper())
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    checkpoint.rollback(aside)
    assert file.read_bytes() == CONTENT


@pytest.mark.usefixtures("settled_soon")
def test_a_file_that_times_prove_unchanged_is_not_read(
    job: Job, keeper: Keeper, tmp_path: Path, aside: Path, monkeypatch: pytest.MonkeyPatch
):
    job.do("f = open('file', 'wb', 0); f.write(b'x')")
    age(tmp_path / "file")
    checkpoint = keeper.take(job)
    monkeypatch.setattr("ckptrun.journal.comparing._holds", lambda *_: pytest.fail("it was read"))
    assert checkpoint.rollback(aside).untouched == (str(tmp_path / "file"),)


def test_a_deleted_file_comes_back_with_its_folders(checkpoint: Checkpoint, file: Path, aside: Path):
    shutil.rmtree(file.parent)
    report = checkpoint.rollback(aside)
    assert report.restored == (str(file),)
    assert file.read_bytes() == CONTENT


def test_a_file_replaced_by_a_symlink_does_not_change_what_it_points_to(
    checkpoint: Checkpoint, file: Path, aside: Path, tmp_path: Path
):
    other = tmp_path / "other"
    other.write_bytes(b"theirs")
    file.unlink()
    file.symlink_to(other)
    checkpoint.rollback(aside)
    assert not file.is_symlink()
    assert file.read_bytes() == CONTENT
    assert other.read_bytes() == b"theirs"
    assert (aside / listed(aside)[0].id).readlink() == other


def test_a_file_replaced_by_a_folder_is_restored_and_the_folder_kept(
    checkpoint: Checkpoint, file: Path, aside: Path
):
    file.unlink()
    file.mkdir()
    (file / "inner").write_bytes(b"inner")
    checkpoint.rollback(aside)
    assert file.read_bytes() == CONTENT
    assert (aside / listed(aside)[0].id / "inner").read_bytes() == b"inner"


def test_a_file_made_read_only_is_restored_with_its_recorded_mode(
    checkpoint: Checkpoint, file: Path, aside: Path
):
    file.write_bytes(b"changed")
    file.chmod(0o400)
    file.parent.chmod(0o500)
    checkpoint.rollback(aside)
    assert file.read_bytes() == CONTENT
    assert file.stat().st_mode & 0o7777 == 0o644


def test_a_file_that_cannot_be_written_is_a_problem_by_name(checkpoint: Checkpoint, file: Path, aside: Path):
    file.write_bytes(b"changed")
    subprocess.run(["chattr", "+i", file], check=True)
    try:
        report = checkpoint.rollback(aside)
    finally:
        subprocess.run(["chattr", "-i", file], check=True)
    assert str(file) in report.problems[0]
    assert not report.restored
    assert checkpoint.rollback(aside).restored == (str(file),)


def test_a_file_with_other_names_is_written_in_place(job: Job, keeper: Keeper, tmp_path: Path, aside: Path):
    job.do("f = open('one', 'wb', 0); f.truncate(100_000); f.write(b'recorded'); os.link('one', 'two')")
    checkpoint = keeper.take(job)
    job.do("f.seek(0); f.write(b'modified')")
    job.kill()
    checkpoint.rollback(aside)
    assert (tmp_path / "one").stat().st_ino == (tmp_path / "two").stat().st_ino
    assert (tmp_path / "two").read_bytes() == b"recorded" + bytes(99_992)
    assert kept(aside)["replaced"][:8] == b"modified"


def test_mode_owner_times_and_attributes_come_back(job: Job, keeper: Keeper, tmp_path: Path, aside: Path):
    path = tmp_path / "file"
    job.do(
        "f = open('file', 'wb', 0); f.write(b'x'); os.setxattr('file', 'user.kind', b'\\x00log')",
        "os.chown('file', 1234, 5678); os.chmod('file', 0o4750); os.utime('file', ns=(1, 1_000_000_001))",
    )
    checkpoint = keeper.take(job)
    for change in ("f.write(b'more')", "os.unlink('file'); open('file', 'w').write('other')"):
        job.do(change, "os.chown('file', 0, 0); os.chmod('file', 0o600)")
        job.do("os.setxattr('file', 'user.new', b''); os.setxattr('file', 'user.kind', b'')")
        report = checkpoint.rollback(aside)
        status = path.stat()
        assert not report.problems
        assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o4750, 1234, 5678)
        assert status.st_mtime_ns == 1_000_000_001
        assert {name: os.getxattr(path, name) for name in os.listxattr(path)} == {"user.kind": b"\0log"}


def test_a_sparse_file_comes_back_sparse(job: Job, keeper: Keeper, tmp_path: Path, aside: Path):
    path = tmp_path / "sparse"
    job.do("f = open('sparse', 'wb', 0); f.truncate(1 << 26); f.seek(1 << 25); f.write(b'middle')")
    checkpoint = keeper.take(job)
    job.do("f.seek(1000); f.write(b'in the hole')")
    job.kill()
    assert checkpoint.rollback(aside).restored == (str(path),)
    assert path.stat().st_blocks * 512 < 1 << 20
    with path.open("rb") as file:
        assert file.read().strip(b"\0") == b"middle"


def test_zeros_written_into_a_hole_are_no_difference(job: Job, keeper: Keeper, tmp_path: Path, aside: Path):
    job.do("f = open('sparse', 'wb', 0); f.truncate(1 << 20)")
    checkpoint = keeper.take(job)
    job.do("f.write(bytes(1 << 20))")
    assert checkpoint.rollback(aside).untouched == (str(tmp_path / "sparse"),)


def test_an_inexact_file_stays_and_is_named(job: Job, tmp_path: Path, aside: Path):
    job.do("f = open('big', 'wb', 0); f.write(b'x' * 100)")
    checkpoint = Keeper(tmp_path, Journal(10)).take(job)
    job.do("f.write(b'y')")
    report = checkpoint.rollback(aside)
    assert "big" in report.problems[0]
    assert (tmp_path / "big").read_bytes() == b"x" * 100 + b"y"


def test_a_wrong_content_is_refused_and_the_file_kept(checkpoint: Checkpoint, file: Path, aside: Path):
    file.write_bytes(b"changed")
    for wrong in (CONTENT.upper(), CONTENT[:-1], CONTENT + b"x"):
        with pytest.raises(CorruptError, match="file"):
            rollback(checkpoint.records, lambda _key, data=wrong: BytesSource(data), aside=aside)  # type: ignore[misc]
        assert file.read_bytes() == b"changed"
        assert [path.name for path in file.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_full_disk_destroys_nothing_and_a_retry_works(
    job: Job, keeper: Keeper, small_disk: Path, aside: Path, elsewhere: bool
):
    path = small_disk / "file"
    job.do(f"f = open({str(path)!r}, 'wb', 0); f.write(b'recorded' * 300_000)")
    checkpoint = keeper.take(job)
    job.kill()
    path.write_bytes(b"modified" * 400_000)
    folder = aside if elsewhere else small_disk / "aside"
    (small_disk / "filler").write_bytes(bytes(4_000_000))
    with pytest.raises(StoreFullError, match=str(path)):
        checkpoint.rollback(folder)
    assert path.read_bytes() == b"modified" * 400_000
    (small_disk / "filler").unlink()
    checkpoint.rollback(folder)
    assert path.read_bytes() == b"recorded" * 300_000
    assert kept(folder) == {"replaced": b"modified" * 400_000}


def test_no_room_for_a_tail_leaves_the_log_as_it_was(job: Job, keeper: Keeper, small_disk: Path):
    path = small_disk / "log"
    job.do(f"f = open({str(path)!r}, 'ab', 0); f.write(b'recorded')")
    checkpoint = keeper.take(job)
    job.do("f.write(b'x' * 5_000_000)")
    with pytest.raises(StoreFullError, match="free some space"):
        checkpoint.rollback(small_disk / "aside")
    assert path.stat().st_size == 5_000_008
    assert sorted(entry.name for entry in (small_disk / "aside").iterdir()) == ["index.jsonl"]


def crashes(checkpoint: Checkpoint, aside: Path, at: int) -> bool:
    """Roll back in a process that dies at the given step; false if there are not that many steps."""
    child = os.fork()
    if not child:
        left = iter(range(at, -1, -1))
        checkpoint.rollback(aside, step=lambda _name: next(left) or os._exit(9))
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in {0, 9}
    return code == 9


def test_a_rollback_that_crashes_at_any_step_is_completed_by_the_next(
    job: Job, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
):
    top = tmp_path / "work"
    top.mkdir()
    keeper = Keeper(top, Journal(1 << 30, preserve=[str(top / "tree")]))
    job.do(
        "os.chdir('work'); os.makedirs('tree/sub')",
        "[open(f'tree/{n}', 'w').write('recorded ' + n) for n in ('one', 'two', 'sub/three')]",
        "os.link('tree/one', 'tree/link'); os.symlink('one', 'tree/symlink'); os.mkfifo('tree/fifo')",
        "log = open('log', 'ab', 0); log.write(b'recorded')",
        "f = open('file', 'wb', 0); f.write(b'recorded'); g = open('gone', 'wb', 0); g.write(b'recorded')",
        "h = open('shared', 'wb', 0); h.write(b'recorded'); os.link('shared', 'other')",
    )
    checkpoint = keeper.take(job)
    wanted = picture(top)
    job.do(
        "log.write(b' tail'); f.seek(0); f.write(b'modified'); os.unlink('gone'); h.seek(0); h.write(b'modified')",
        "os.unlink('tree/one'); os.unlink('tree/link'); open('tree/link', 'w').write('modified')",
        "open('tree/two', 'w').write('modified'); os.rename('tree/sub', 'tree/moved')",
        "os.unlink('tree/symlink'); os.symlink('two', 'tree/symlink'); os.unlink('tree/fifo')",
    )
    job.kill()
    start = tmp_path / "start"
    subprocess.run(["cp", "-a", top, start], check=True)
    crashed = 0
    while True:
        shutil.rmtree(top)
        subprocess.run(["cp", "-a", start, top], check=True)
        aside = tmp_path_factory.mktemp("aside")
        if not crashes(checkpoint, aside, crashed):
            break
        crashed += 1
        checkpoint.rollback(aside)
        assert picture(top) == wanted, f"after a crash at step {crashed}"
        saved = [
            (aside / entry.id).read_bytes() for entry in listed(aside) if not (aside / entry.id).is_symlink()
        ]
        assert sorted(saved) == sorted(
            [b" tail", b"modified", b"modified", b"modified", b"modified", b"recorded sub/three"]
        )
    assert crashed > 30
    assert picture(top) == wanted


def picture(top: Path) -> dict[str, object]:
    """Return everything that a rollback must bring back, by name."""
    found: dict[str, object] = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        kind = status.st_mode
        content = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        moved = path.name == "other"  # the same inode as a recorded file, not recorded itself
        found[str(path)] = (kind, status.st_nlink, 0 if moved else status.st_mtime_ns, content)
    return found


def test_the_end_of_redirected_output_is_kept(tmp_path: Path, aside: Path):
    output = tmp_path / "output"
    output.write_bytes(b"line 1\nline 2\n")
    entry = keep_tail(output, 7, aside=aside)
    assert entry is not None
    assert (entry.path, entry.offset, entry.bytes) == (str(output), 7, 7)
    assert output.read_bytes() == b"line 1\nline 2\n"
    assert kept(aside) == {"cut back": b"line 2\n"}
    assert keep_tail(output, 14, aside=aside) is None


def test_what_is_set_aside_is_bounded_and_the_newest_kept(tmp_path: Path, aside: Path):
    output = tmp_path / "output"
    for number in range(5):
        output.write_bytes(bytes([48 + number]) * 400)
        keep_tail(output, 0, aside=aside, aside_limit=1000)
    assert [(aside / entry.id).read_bytes()[:1] for entry in listed(aside)] == [b"3", b"4"]
    assert len(list(aside.iterdir())) == 3
    output.write_bytes(b"x" * 5000)
    keep_tail(output, 0, aside=aside, aside_limit=1000)
    assert [entry.bytes for entry in listed(aside)] == [5000]


def test_a_torn_line_of_the_index_costs_no_other_line(tmp_path: Path, aside: Path):
    output = tmp_path / "output"
    output.write_bytes(b"first")
    keep_tail(output, 0, aside=aside)
    with (aside / "index.jsonl").open("a") as index:
        index.write('{"id": "to')
    output.write_bytes(b"second")
    keep_tail(output, 0, aside=aside)
    assert [entry.bytes for entry in listed(aside)] == [5, 6]
    assert len([json.loads(line) for line in (aside / "index.jsonl").read_text().splitlines()]) == 2


@pytest.fixture
def led_astray(checkpoint: Checkpoint, file: Path, tmp_path: Path) -> Path:
    """A folder elsewhere that the recorded file's folder has become a symlink to."""
    assert checkpoint.records  # it was recorded where it was
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    elsewhere.mkdir()
    (elsewhere / file.name).write_bytes(b"somebody's")
    file.parent.rename(tmp_path.parent / f"{tmp_path.name}-before")
    file.parent.symlink_to(elsewhere)
    return elsewhere


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights that the job lacks")
def test_a_symlink_of_the_jobs_user_leads_nothing_elsewhere(
    checkpoint: Checkpoint, file: Path, led_astray: Path, aside: Path
):
    os.chown(file.parent, 65534, 65534, follow_symlinks=False)
    report = checkpoint.rollback(aside)
    assert (led_astray / file.name).read_bytes() == b"somebody's"
    (problem,) = report.problems
    assert problem == (
        f"{file} cannot be rolled back: {file.parent}, on the way to it, is a symlink of user 65534; "
        "it stays as it is now"
    )


def test_a_symlink_of_ones_own_is_followed_but_not_into_ckptruns_folders(
    checkpoint: Checkpoint, file: Path, led_astray: Path, aside: Path
):
    (problem,) = checkpoint.rollback(aside, ignore=[str(led_astray)]).problems
    assert "its folder is a symlink into ckptrun's own" in problem
    assert (led_astray / file.name).read_bytes() == b"somebody's"
    assert not checkpoint.rollback(aside).problems
    assert (led_astray / file.name).read_bytes() == CONTENT
