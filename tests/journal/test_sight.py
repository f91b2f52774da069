"""What a journal with more rights than the job reads: nothing that the job could not read itself, nor has open."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from journalkit import Checkpoint, Job, Keeper
from watched import WatchedJob

from ckptrun.capsule.fsrights import Modest
from ckptrun.capsule.spec import Identity
from ckptrun.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights that the job lacks")

NOBODY = 65534
USER = Modest(Identity(NOBODY, NOBODY))
SECRET = b"root's alone"
BECOME = f"os.setgroups([]); os.setresgid(*[{NOBODY}] * 3); os.setresuid(*[{NOBODY}] * 3)"


@pytest.fixture
def work(public_folder: Path) -> Path:
    """The job's own folder."""
    folder = public_folder / "work"
    folder.mkdir()
    os.chown(folder, NOBODY, NOBODY)
    return folder


@pytest.fixture
def secrets(public_folder: Path) -> Path:
    """A folder of root's, with a file that is called like one of the job's."""
    folder = public_folder / "secrets"
    folder.mkdir(mode=0o700)
    (folder / "file").write_bytes(SECRET)
    (folder / "file").chmod(0o600)
    return folder


@pytest.fixture
def theirs(work: Path) -> Iterator[Job]:
    """A job of another user."""
    job = Job(work)
    job.do(BECOME)
    yield job
    job.kill()


def journal(work: Path, *preserve: Path) -> Keeper:
    return Keeper(work, Journal(1 << 30, preserve=list(map(str, preserve)), user=USER))


def contents(checkpoint: Checkpoint) -> list[bytes]:
    return [b"".join(map(bytes, source.pieces())) for source in checkpoint.contents.values()]


def test_a_preserved_path_that_the_jobs_user_leads_elsewhere_holds_nothing_that_user_may_not_read(
    theirs: Job, work: Path, secrets: Path
):
    theirs.do(f"os.symlink({str(secrets)!r}, 'data')")
    checkpoint = journal(work, work / "data", work / "data/file").take(theirs)
    assert not contents(checkpoint)
    assert "cannot be read" in "\n".join(checkpoint.capture.problems)


def test_a_preserved_path_through_a_symlink_of_the_jobs_user_is_kept_as_far_as_that_user_may_read(
    theirs: Job, work: Path
):
    theirs.do(
        "os.mkdir('before'); open('before/file', 'w').write('kept')",
        "os.symlink('before', 'data')",
    )
    (work / "before/locked").write_bytes(SECRET)
    (work / "before/locked").chmod(0o600)
    checkpoint = journal(work, work / "data").take(theirs)
    assert contents(checkpoint) == [b"kept"]
    assert [record.path for record in checkpoint.records if not record.exact] == [str(work / "before/locked")]


def test_a_hard_link_to_somebody_elses_file_does_not_give_its_content(theirs: Job, work: Path, secrets: Path):
    (work / "data").mkdir()
    os.link(secrets / "file", work / "data/linked")
    checkpoint = journal(work, work / "data").take(theirs)
    assert not contents(checkpoint)


@pytest.mark.parametrize("mode", [0o000, 0o200, 0o644])
def test_a_file_of_the_jobs_user_is_kept_whatever_its_mode(theirs: Job, work: Path, mode: int):
    theirs.do(
        "os.mkdir('data'); open('data/file', 'w').write('kept')",
        f"os.chmod('data/file', {mode}); f = open('open', 'wb', 0); f.write(b'written'); os.chmod('open', {mode})",
    )
    checkpoint = journal(work, work / "data").take(theirs)
    assert sorted(contents(checkpoint)) == [b"kept", b"written"]


def test_a_file_that_the_job_was_given_open_is_kept_though_it_could_not_open_it(
    work: Path, public_folder: Path
):
    locked = public_folder / "locked"
    locked.mkdir(mode=0o700)
    job = Job(work)
    job.do(f"f = open({str(locked / 'log')!r}, 'wb', 0); f.write(b'a line')", BECOME)
    checkpoint = Keeper(public_folder, journal(work).journal).take(job)
    job.kill()
    assert contents(checkpoint) == [b"a line"]
    assert not checkpoint.capture.problems


@pytest.fixture
def watched(work: Path, tmp_path: Path) -> Iterator[tuple[WatchedJob, Keeper]]:
    """A job of another user whose writing is watched."""
    keeper = Keeper(work, Journal(1 << 30, trail=tmp_path / "trail", user=USER))
    job = WatchedJob(work, keeper.journal)
    job.start()
    job.do(BECOME, "os.mkdir('folder'); open('folder/file', 'w').write('the job wrote this')")
    yield job, keeper
    job.kill()


def swap(work: Path, secrets: Path) -> None:
    """Put a symlink in the place of the job's folder, as another program of that user can at any moment."""
    (work / "folder").rename(work / "moved")
    (work / "folder").symlink_to(secrets)


def test_a_folder_swapped_for_a_symlink_before_the_freeze_leads_to_nothing_of_somebody_elses(
    watched: tuple[WatchedJob, Keeper], work: Path, secrets: Path
):
    job, keeper = watched
    prepared = keeper.journal.prepare(job.pids, keeper.put, {})
    job.do("f = open('folder/file', 'a'); f.write(', and more'); f.close()")  # so that the freeze looks again
    job.freeze()
    swap(work, secrets)
    frozen = keeper.journal.capture(prepared, job.pids, keeper.put, "1")
    job.thaw()
    checkpoint = keeper.keep(keeper.journal.seal(frozen))
    assert SECRET not in contents(checkpoint)
    [problem] = [text for text in checkpoint.capture.problems if "folder/file" in text]
    assert "cannot be read (Permission denied)" in problem
