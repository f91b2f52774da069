"""Stores that are read-only, full or out of reach: the job runs on, it is said, and made up for when they work."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import chain
import pytest
from disk import Disk
from relay import Relay
from support.ports import free_ports
from support.run import COMMITTED, RESTORED, STARTED, Lab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.run import Run
    from support.s3 import S3Server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount disks"),
]

JOB = (sys.executable, Path(__file__).with_name("chain.py"))
OFTEN = ("--interval", "0.3s")
PLENTY = "size=400m,nr_inodes=1000"


def finish(lab: Lab, run: Run) -> str:
    """Let the job end, check its result, and return what ckptrun said."""
    (lab.work / "finish").touch()
    result = run.wait()
    assert result.code == 0, result.err
    assert chain.is_exact(lab.work, result.out), result.err
    return result.err


def staged(lab: Lab) -> int:
    return len(lab.events("checkpoint-staged"))


def ailing_read_only(disk: Disk) -> None:
    disk.remount("ro")


def ailing_full(disk: Disk) -> None:
    disk.exhaust_inodes()


AILMENTS = [
    (ailing_read_only, lambda disk: disk.remount("rw"), "Read-only file system"),
    (ailing_full, Disk.free_inodes, "No space left on device"),
]


@pytest.mark.parametrize(("spoil", "mend", "reason"), AILMENTS, ids=["read-only", "full"])
class TestDirectories:
    def test_at_the_start_the_job_runs_and_checkpoints_are_committed_once_it_works(
        self, lab: Lab, spoil: Callable[[Disk], None], mend: Callable[[Disk], None], reason: str
    ):
        with Disk(lab, PLENTY) as disk:
            spoil(disk)
            run = lab.start(*JOB, options=OFTEN)
            run.says(reason)
            run.until("checkpoints in memory", lambda: staged(lab) >= 2)
            assert not lab.events(COMMITTED)
            mend(disk)
            run.event(COMMITTED)
            errors = finish(lab, run)
        assert "the job runs" in errors
        assert "the store can be reached now" in errors

    def test_later_on_it_is_said_once_and_the_next_checkpoints_are_committed_when_it_works(
        self, lab: Lab, spoil: Callable[[Disk], None], mend: Callable[[Disk], None], reason: str
    ):
        with Disk(lab, PLENTY) as disk:
            run = lab.start(*JOB, options=OFTEN)
            run.commit()
            spoil(disk)
            run.event("commit-failed")
            before = staged(lab)
            run.until("another checkpoint in memory", lambda: staged(lab) > before)
            count = len(lab.events(COMMITTED))
            mend(disk)
            run.until("commit", lambda: len(lab.events(COMMITTED)) > count)
            errors = finish(lab, run)
        assert 1 <= errors.count(reason) <= 2, errors
        assert "the store works again" in errors

    def test_a_job_that_dies_meanwhile_is_restored_from_memory(
        self, lab: Lab, spoil: Callable[[Disk], None], mend: Callable[[Disk], None], reason: str
    ):
        with Disk(lab, PLENTY) as disk:
            spoil(disk)
            run = lab.start(*JOB, options=OFTEN)
            run.until("a checkpoint in memory", lambda: staged(lab))
            run.restored(run.kill_job)
            assert reason in finish(lab, run)
            mend(disk)

    def test_the_jobs_exit_code_is_its_own(
        self, lab: Lab, spoil: Callable[[Disk], None], mend: Callable[[Disk], None], reason: str
    ):
        with Disk(lab, PLENTY) as disk:
            spoil(disk)
            result = lab.run("sh", "-c", "echo ran; exit 7")
            mend(disk)
        assert (result.code, result.out) == (7, "ran\n")
        assert reason in result.err

    def test_with_require_store_the_job_is_not_started(
        self, lab: Lab, spoil: Callable[[Disk], None], mend: Callable[[Disk], None], reason: str
    ):
        with Disk(lab, PLENTY) as disk:
            spoil(disk)
            result = lab.run("echo", "started", options=("--require-store",))
            mend(disk)
        assert (result.code, result.out) == (73, "")
        assert reason in result.err
        assert str(disk.place) in result.err

    def test_an_unfinished_run_is_not_started_anew_unless_asked_to(
        self, lab: Lab, spoil: Callable[[Disk], None], mend: Callable[[Disk], None], reason: str
    ):
        with Disk(lab, PLENTY) as disk:
            run = lab.start(*JOB, options=OFTEN)
            run.commit()
            run.kill_supervisor()
            spoil(disk)
            refused = lab.run(*JOB)
            assert (refused.code, refused.out) == (73, "")
            assert reason in refused.err
            assert "--fresh" in refused.err

            events = len(lab.events())
            run = lab.start(*JOB, options=(*OFTEN, "--fresh"))
            run.event(STARTED, after=events)
            mend(disk)
            run.event(COMMITTED, after=events)
            finish(lab, run)


def test_a_disk_nearly_full_has_checkpoints_skipped_and_says_so(lab: Lab):
    with Disk(lab, "size=50m") as disk:
        run = lab.start(*JOB, options=OFTEN)
        run.says("nearly full")
        assert not lab.events("checkpoint-staged")
        disk.remount("size=400m")
        run.checkpoint()
        errors = finish(lab, run)
    assert errors.count("nearly full") == 1, errors


@contextmanager
def out_of_reach(lab: Lab) -> Iterator[str]:
    """Give the lab a bucket at an address where nobody listens; yields the address."""
    (port,) = free_ports(1)
    lab.store = "s3://checkpoints/runs"
    lab.options = ("--no-encryption",)
    lab.environment = {
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "tester-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "CKPTRUN_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    yield f"127.0.0.1:{port}"


def test_a_bucket_out_of_reach_does_not_stop_the_job(lab: Lab):
    with out_of_reach(lab) as address:
        result = lab.run("sh", "-c", "echo ran; exit 7")
    assert (result.code, result.out) == (7, "ran\n")
    assert address in result.err
    assert "the job runs" in result.err


def test_a_bucket_out_of_reach_is_refused_with_require_store(lab: Lab):
    with out_of_reach(lab) as address:
        result = lab.run("echo", "started", options=("--require-store",))
    assert (result.code, result.out) == (73, "")
    assert address in result.err


def test_a_second_run_harms_no_live_one_whose_store_is_out_of_reach(lab: Lab):
    keeps = (
        "import os, pathlib, tempfile, time; kept = pathlib.Path(tempfile.mkdtemp()) / 'kept'; kept.touch();"
        "print('ready', flush=True)\nwhile not os.path.exists('enough'): time.sleep(0.02)\nprint(kept.exists())"
    )
    with out_of_reach(lab):
        run = lab.start(sys.executable, "-c", keeps)
        run.prints("ready")
        second = lab.run(sys.executable, "-c", keeps)
        assert (second.code, second.out) == (79, "")
        assert "lives on this machine" in second.err
        (lab.work / "enough").touch()
        assert run.wait().out.split() == ["ready", "True"]


def test_a_bucket_that_goes_and_comes_gets_what_was_kept_in_memory(lab: Lab, s3_server: S3Server):
    with Relay(s3_server.endpoint) as relay:
        lab.store = f"{s3_server.url}/{lab.folder.name}"
        lab.options = ("--no-encryption",)
        lab.environment = {**s3_server.env, "CKPTRUN_S3_ENDPOINT_URL": relay.url}
        relay.cut()
        run = lab.start(*JOB, options=OFTEN)
        run.says("the job runs")
        run.until("a checkpoint in memory", lambda: staged(lab))
        relay.mend()
        run.event(COMMITTED)
        run.commit()

        relay.cut()
        run.event("commit-failed", after=len(lab.events()))
        run.restored(run.kill_job)
        relay.mend()
        run.commit()
        run.kill_supervisor()

        lab.lose_machine()
        relay.cut()
        anew = lab.run("echo", "started", options=("--require-store",))
        assert (anew.code, anew.out) == (73, "")
        relay.mend()
        run = lab.start(*JOB, options=OFTEN)
        run.event(RESTORED)
        finish(lab, run)


def test_a_bucket_out_of_reach_is_refused_after_an_unfinished_run(lab: Lab, s3_server: S3Server):
    with Relay(s3_server.endpoint) as relay:
        lab.store = f"{s3_server.url}/{lab.folder.name}"
        lab.options = ("--no-encryption",)
        lab.environment = {**s3_server.env, "CKPTRUN_S3_ENDPOINT_URL": relay.url}
        run = lab.start(*JOB, options=OFTEN)
        run.commit()
        run.kill_supervisor()
        relay.cut()
        refused = lab.run(*JOB)
        assert (refused.code, refused.out) == (73, "")
        assert "--fresh" in refused.err
        relay.mend()
        run = lab.start(*JOB, options=OFTEN)
        run.event(RESTORED)
        finish(lab, run)
