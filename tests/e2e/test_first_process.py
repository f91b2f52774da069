"""ckptrun as PID 1, as in a container whose entry point it is: orphans are reaped, signals heeded, codes passed on."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import TYPE_CHECKING

import psutil
import pytest
from jobs import count
from support.run import Lab

if TYPE_CHECKING:
    from support.run import Run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a PID namespace like a container's"),
]

JOBS = Path(__file__).parent / "jobs"
STEPS = 100
COUNT = (sys.executable, JOBS / "count.py", "--steps", STEPS)
ALONE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
ORPHANS = """
import os, sys
for _ in range(20):
    if os.fork() == 0:
        if os.fork() == 0:
            os.close(0), os.close(1), os.close(2)
            os.setsid()
        os._exit(0)
    os.wait()
"""
"""Twenty processes whose parents have ended: those of a shell that somebody has started in the container."""


@pytest.fixture
def contained(lab: Lab) -> Lab:
    lab.prefix = ALONE
    return lab


def first(run: Run) -> psutil.Process:
    """Return PID 1, once ckptrun goes on below it."""

    def found() -> psutil.Process | None:
        children = psutil.Process(run.process.pid).children()
        return children[0] if children and children[0].children() else None

    process = run.until("PID 1", found)
    assert isinstance(process, psutil.Process)
    return process


def supervisor(run: Run) -> psutil.Process:
    """Return ckptrun itself, once its job runs."""
    run.job_pid()
    (process,) = first(run).children()
    assert isinstance(process, psutil.Process)
    return process


def job(run: Run) -> psutil.Process:
    """Return the job's first process; what ckptrun says is its PID in the container."""
    inside = run.job_pid()

    def found() -> psutil.Process | None:
        return next((one for one in first(run).children(recursive=True) if pid_inside(one) == inside), None)

    process = run.until("the job's process", found)
    assert isinstance(process, psutil.Process)
    return process


def pid_inside(process: psutil.Process) -> int | None:
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except OSError:
        return None
    return int(next(line for line in lines if line.startswith("NSpid:")).split()[2])


def counted(lab: Lab) -> int:
    log = lab.work / "log.txt"
    return log.read_text().count("\n") if log.exists() else 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_pid_1_stops_the_run_and_the_next_one_goes_on(contained: Lab, signum: int):
    contained.hold()
    run = contained.start(*COUNT)
    run.until("some steps", lambda: counted(contained) >= 20)
    first(run).send_signal(signum)
    stopped = run.wait()
    assert stopped.code == 75, stopped.err
    again = contained.start(*COUNT)
    again.event("job-restored")
    result = again.finish()
    assert (result.code, result.out) == (0, f"{count.result(STEPS)}\n"), result.err
    assert (contained.work / "log.txt").read_text().splitlines() == count.lines(STEPS)


def test_usr1_to_pid_1_asks_for_a_checkpoint(contained: Lab):
    contained.hold()
    run = contained.start(*COUNT)
    run.until("some steps", lambda: counted(contained) >= 20)
    first(run).send_signal(signal.SIGUSR1)
    run.commit()
    assert run.finish().code == 0


def test_two_in_containers_of_their_own_leave_each_other_s_folder_alone(contained: Lab, tmp_path: Path):
    contained.hold()
    run = contained.start(*COUNT)
    run.checkpoint()
    with Lab(tmp_path / "other", options=contained.options, prefix=ALONE) as other:
        assert other.run("true").code == 0
    run.restored(job(run).kill)
    assert run.finish().out == f"{count.result(STEPS)}\n"


def test_a_signal_ends_what_has_no_handler_for_it(contained: Lab):
    """PID 1 itself would ignore it."""
    contained.hold()
    run = contained.start(*COUNT)
    run.event("job-started")
    following = contained._started(
        contained.argv("events", contained.name, "--store", contained.store, "--follow"), DEVNULL, PIPE, PIPE
    )
    following.prints("job-started")
    first(following).terminate()
    assert following.wait().code == 128 + signal.SIGTERM
    assert run.finish().code == 0


def test_the_code_of_the_run_is_that_of_the_container(contained: Lab):
    assert contained.run("sh", "-c", "exit 42", options=("--restart", "never")).code == 42
    contained.name = "killed"
    killed = contained.run("sh", "-c", "kill -KILL $$", options=("--restart", "never"))
    assert killed.code == 128 + signal.SIGKILL
    assert contained.run("no-such-program").code == 127


def test_a_killed_ckptrun_ends_the_container_with_its_signal(contained: Lab):
    contained.hold()
    run = contained.start(*COUNT)
    supervisor(run).kill()
    assert run.wait().code == 128 + signal.SIGKILL
    contained.expect_nothing_left()


def test_orphans_are_reaped_and_nobody_loses_the_status_of_a_child(contained: Lab):
    """ckptrun's own children go on ending meanwhile: CRIU for a checkpoint, the capsule for a restore."""
    contained.hold()
    run = contained.start(*COUNT)
    one = first(run)
    job(run)
    inside = ("nsenter", f"--target={one.pid}", "--pid", sys.executable, "-c", ORPHANS)
    assert contained.execute(list(inside)).code == 0
    run.checkpoint()
    run.restored(job(run).kill)
    assert contained.execute(list(inside)).code == 0
    run.checkpoint()
    run.until("no zombie", lambda: [child.pid for child in one.children()] == [supervisor(run).pid])
    result = run.finish()
    assert (result.code, result.out) == (0, f"{count.result(STEPS)}\n"), result.err
