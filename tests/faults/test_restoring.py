"""What happens to a run while it is restoring: it is asked how it does, told to stop, taken over."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import psutil
import pytest
from injected import SLEEP, Fault

if TYPE_CHECKING:
    from support.run import Lab, Run

JOB = ("sh", "-c", "i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo $i >> log.txt; sleep 0.05; done")
SLOW_SECONDS = 8.0


def slowly_restoring(lab: Lab, place: str) -> Run:
    """Return a run that restores its job, and takes its time at `place` before the job has a capsule."""
    run = lab.start(*JOB, options=("--interval", "off"))
    run.checkpoint()
    run.kill_supervisor()
    fault = Fault(place, commits=0, act=SLEEP, seconds=SLOW_SECONDS)
    slow = dataclasses.replace(lab, program=fault.program())
    before = len(lab.events())
    again = slow.start(*JOB, options=("--interval", "off"))
    lab.runs.append(again)
    again.event("restore-started", after=before)
    time.sleep(0.3)
    return again


def lines(lab: Lab) -> int:
    return len((lab.work / "log.txt").read_text().splitlines())


def test_a_restore_that_takes_long_does_not_mind_being_asked(lab: Lab):
    run = slowly_restoring(lab, "ckptrun.supervisor.restoring:Restorer._check")
    status = run.status()
    assert status["job_pid"] is None
    assert status["current"] == "restoring"
    run.until("job_pid", lambda: run.status()["job_pid"])
    assert run.alive()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_before_the_restored_job_has_a_capsule_ends_the_run_at_once(lab: Lab, signum: int):
    run = slowly_restoring(lab, "ckptrun.supervisor.restoring:Restorer._check")
    before = lines(lab)
    run.process.send_signal(signum)
    assert run.wait(SLOW_SECONDS / 2).code == 75
    lab.expect_nothing_left()
    assert lines(lab) == before
    assert len(lab.events("run-ended")) == 1


def test_a_capsule_that_dies_under_a_restore_leaves_nothing_open(lab: Lab):
    fault = Fault("ckptrun.supervisor.restoring:Restorer._run_criu", commits=0, act=SLEEP, seconds=3.0)
    slow = dataclasses.replace(lab, program=fault.program())
    run = slow.start(*JOB, options=("--interval", "off"), stdin=subprocess.PIPE)
    lab.runs.append(run)
    run.checkpoint()
    newest = run.checkpoint()
    supervisor = psutil.Process(run.process.pid)
    before = supervisor.num_fds()
    run.kill_job()
    run.event("restore-started")
    (init,) = run.until("a new capsule", supervisor.children)
    init.kill()
    restored = run.event("job-restored")
    assert restored["checkpoint"] == newest
    run.until("nothing open that was not before", lambda: supervisor.num_fds() <= before, timeout=5)
