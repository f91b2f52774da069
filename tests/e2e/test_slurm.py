"""examples/slurm on a real Slurm of one node: a job that is told to stop, requeued or lost goes on where it was."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from jobs import count
from support.processes import PATIENCE, POLL_SECONDS, die_with_parent, started_with
from support.run import COMMITTED, HOLD, REPOSITORY, RESTORED, STARTED
from support.slurm import UID, USER, Job, Slurm, script

from ckptrun.settings.names import run_directory, state_directory
from ckptrun.telemetry.events import FILE_NAME, read_events

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a Slurm's daemons"),
]

EXAMPLE = REPOSITORY / "examples" / "slurm"
BATCH = EXAMPLE / "ckptrun.sbatch"
STEPS = 60
SLOW = "slow"
"""While this file is in its working directory, ckptrun takes its time to start, as from a network's file system."""
COUNT = (sys.executable, Path(__file__).parent / "jobs" / "count.py", "--steps", STEPS)


@dataclasses.dataclass
class Site:
    """A cluster whose user has ckptrun."""

    slurm: Slurm
    folder: Path

    @property
    def scratch(self) -> Path:
        return self.folder / "scratch"

    @property
    def state(self) -> Path:
        """What the batch script makes of it."""
        return self.scratch / f"ckptrun-{USER}"

    @property
    def store(self) -> str:
        return f"file://{self.folder}/home/checkpoints"

    def work(self, name: str) -> Path:
        """Make a working directory, in which a job does not take its last step: see `finish`."""
        folder = self.folder / "home" / name
        folder.mkdir()
        (folder / HOLD).touch()
        os.chown(folder, UID, UID)
        return folder

    def submit(self, work: Path | str, *words: object) -> Job:
        """Have the user submit a batch script, to run in a directory or in a new one of this name."""
        env = {
            "CKPTRUN_STORE": self.store,
            "CKPTRUN_INTERVAL": "off",
            "LOCAL_SCRATCH": str(self.scratch),
            "XDG_STATE_HOME": str(self.state),
        }
        folder = work if isinstance(work, Path) else self.work(work)
        return self.slurm.submit(folder, *words, env=env)

    def events(self, job: Job, name: str) -> list[dict[str, Any]]:
        """Return the events of one name that the diary of a job's lineage has."""
        state = state_directory({"XDG_STATE_HOME": str(self.state)}, self.folder)
        diary = run_directory(state, self.store, f"test-{job.id}") / FILE_NAME
        return [event for event in read_events(diary) if event["event"] == name]

    def event(self, job: Job, name: str) -> dict[str, Any]:
        """Wait until a job's lineage has an event of this name and return the first."""
        return dict(job.until(f"event {name}", lambda: self.events(job, name))[0])

    def checkpoint(self, job: Job) -> None:
        """Have the user take a checkpoint of a job that runs."""
        self.event(job, STARTED)
        words = ("checkpoint", f"test-{job.id}", "--store", self.store, "--wait")
        self.slurm.ask("ckptrun", *words, env={"XDG_STATE_HOME": str(self.state)}, user=True)

    def tell(self, job: Job) -> None:
        """Send a job that runs what Slurm sends it before its time is up."""
        self.event(job, STARTED)
        self.slurm.ask("scancel", "--batch", "--signal=TERM", job.id)


def finish(job: Job, log: str = "log.txt") -> None:
    """Let a job take its last step; it must end well, and with the result of an undisturbed run."""
    (job.folder / HOLD).unlink(missing_ok=True)
    facts = job.end()
    assert (facts["JobState"], facts["ExitCode"]) == ("COMPLETED", "0:0"), job.story()
    assert (job.folder / log).read_text().splitlines() == count.lines(STEPS)
    assert job.output().count(f"{count.result(STEPS)}\n") == 1, job.story()


def restarts(job: Job) -> int:
    return int(job.facts()["Restarts"])


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)
    programs, scratch = folder / "bin", folder / "scratch"
    programs.mkdir()
    scratch.mkdir()
    os.chown(scratch, UID, UID)
    script(
        programs / "ckptrun",
        f"#!/bin/sh\nwhile [ -e {SLOW} ]; do sleep 0.05; done\n"
        f'PYTHONPATH={REPOSITORY} exec {sys.executable} -m ckptrun "$@"\n',
    )
    with Slurm(folder, programs) as slurm:
        yield Site(slurm, folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def limited(site: Site) -> Job:
    """A job with a minute's time, which is to be told at once: Slurm looks every 30 s."""
    return site.submit("limited", "--time=1", "--signal=B:TERM@60", BATCH, *COUNT)


@pytest.fixture(scope="module")
def array(site: Site) -> Job:
    """An array of two; the task that has the array's own number is told to stop."""
    command = f"exec {sys.executable} {COUNT[1]} --steps {STEPS} --log $SLURM_ARRAY_TASK_ID.txt"
    array = site.submit("array", "--array=1-2", BATCH, "sh", "-c", command)
    for number in (1, 2):
        site.event(array.task(number), STARTED)
    (named,) = (number for number in (1, 2) if array.task(number).facts()["JobId"] == array.id)
    site.tell(array.task(named))
    site.event(array.task(named), COMMITTED)
    return array


@pytest.fixture(scope="module")
def requeued(site: Site) -> Job:
    """A job that an administrator has requeued after a checkpoint."""
    job = site.submit("requeued", BATCH, *COUNT)
    site.checkpoint(job)
    site.slurm.ask("scontrol", "requeue", job.id)
    return job


@pytest.fixture(scope="module")
def hurried(site: Site) -> Job:
    """A job that was told to stop before ckptrun had begun to listen."""
    folder = site.work("hurried")
    (folder / SLOW).touch()
    job = site.submit(folder, BATCH, *COUNT)
    job.until("start of ckptrun", lambda: job.batch().children())
    site.slurm.ask("scancel", "--batch", "--signal=TERM", job.id)
    job.until("requeue", lambda: restarts(job))
    (folder / SLOW).unlink()
    return job


@pytest.fixture(scope="module", autouse=True)
def _side_by_side(limited: Job, array: Job, requeued: Job, hurried: Job) -> None:
    """Have what takes Slurm its time happen at the same time."""


def test_a_job_that_fails_ends_with_its_own_code_and_is_not_run_again(site: Site):
    job = site.submit("failing", BATCH, "sh", "-c", "exit 3")
    facts = job.end()
    assert (facts["JobState"], facts["ExitCode"], facts["Restarts"]) == ("FAILED", "3:0", "0"), job.story()


def test_a_cancelled_job_is_not_run_again_although_it_was_checkpointed_and_stopped(site: Site):
    job = site.submit("cancelled", BATCH, *COUNT)
    site.event(job, STARTED)
    (batch,) = (
        process for process in site.slurm.processes("slurm_script") if process.cwd() == str(job.folder)
    )
    (ckptrun,) = batch.children()
    batch.suspend()  # what it does once ckptrun has ended comes after the cancellation
    ckptrun.terminate()
    job.until("end of ckptrun", lambda: ckptrun.status() == psutil.STATUS_ZOMBIE)
    assert site.event(job, COMMITTED)
    site.slurm.ask("scancel", job.id)  # resumes it
    assert job.end()["JobState"] == "CANCELLED"
    psutil.wait_procs([batch], PATIENCE)
    facts = job.facts()
    assert (facts["JobState"], facts["Restarts"]) == ("CANCELLED", "0"), job.story()


def test_a_job_that_an_administrator_requeues_goes_on_from_its_newest_checkpoint(site: Site, requeued: Job):
    site.event(requeued, RESTORED)
    finish(requeued)
    assert restarts(requeued) == 1


def test_a_job_that_is_told_to_stop_before_ckptrun_listens_begins_in_its_next_turn(site: Site, hurried: Job):
    site.event(hurried, STARTED)
    finish(hurried)
    assert restarts(hurried) == 1
    assert not site.events(hurried, COMMITTED)


def test_a_task_of_an_array_that_is_told_to_stop_goes_on_and_the_others_do_not_notice(site: Site, array: Job):
    tasks = (array.task(1), array.task(2))
    array.until("another life", lambda: any(site.events(task, RESTORED) for task in tasks))
    assert sum(restarts(task) for task in tasks) == 1
    for task, log in zip(tasks, ("1.txt", "2.txt"), strict=True):
        finish(task, log)
        assert len(site.events(task, STARTED)) == 1


def test_with_requeue_exit_a_script_of_one_line_is_enough(site: Site):
    page = (EXAMPLE / "README.md").read_text()
    (line,) = re.findall(r"^exec ckptrun .*$", page, re.MULTILINE)
    (setting,) = re.findall(r"^RequeueExit=.*$", page, re.MULTILINE)
    site.slurm.configure(setting)
    program = script(site.folder / "line.sh", f"#!/bin/bash\n{line}\n")
    job = site.submit("line", "--requeue", "--open-mode=append", program, *COUNT)
    site.tell(job)
    site.event(job, RESTORED)
    finish(job)
    assert restarts(job) == 1


def test_a_job_whose_time_is_nearly_up_is_told_and_goes_on_in_its_next_turn(site: Site, limited: Job):
    site.event(limited, COMMITTED)
    finish(limited)
    assert restarts(limited) >= 1
    assert site.events(limited, RESTORED)
    assert len(site.events(limited, STARTED)) == 1


def test_a_job_whose_node_is_lost_goes_on_on_another(site: Site):
    job = site.submit("lost", BATCH, *COUNT)
    site.checkpoint(job)
    site.slurm.lose_node()
    for state in site.scratch.iterdir():
        shutil.rmtree(state)
    site.event(job, RESTORED)
    assert not site.events(job, STARTED)
    finish(job)
    assert restarts(job) == 1


def test_a_slurm_does_not_outlive_the_tests_that_started_it(open_folder: Path):
    story = f"""
        import sys, time
        from pathlib import Path
        sys.path.insert(0, {str(REPOSITORY / "tests")!r})
        from support.slurm import Slurm
        with Slurm(Path(sys.argv[1]), Path("/")) as slurm:
            print(slurm.tag, flush=True)
            time.sleep(3600)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(story), open_folder],
        stdout=subprocess.PIPE,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call
    ) as tests:
        assert tests.stdout is not None
        tag = tests.stdout.readline().decode().strip()
        assert len(started_with(f"LAB={tag}")) >= len(("munged", "slurmctld", "slurmd"))
        tests.kill()
    deadline = time.monotonic() + PATIENCE
    while left := started_with(f"LAB={tag}"):
        assert time.monotonic() < deadline, left
        time.sleep(POLL_SECONDS)
