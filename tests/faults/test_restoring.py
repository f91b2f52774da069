"""What happens to a run while it is restoring: it is asked how it does, told to stop, taken over."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import psutil
import pytest
from injected import HOLD, Fault

if TYPE_CHECKING:
    from pathlib import Path

    from support.run import Lab, Run

pytestmark = pytest.mark.slow

JOB = ("sh", "-c", "i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo $i >> log.txt; sleep 0.05; done")


def held_restoring(lab: Lab, place: str) -> tuple[Run, Path]:
    """Return a run that restores its job and is held at `place`, before the job has a capsule, while a file exists."""
    run = lab.start(*JOB, options=("--interval", "off"))
    run.checkpoint()
    run.kill_supervisor()
    gate = lab.folder / "gate"
    slow = dataclasses.replace(lab, program=Fault(place, commits=0, act=HOLD, gate=str(gate)).program())
    again = slow.start(*JOB, options=("--interval", "off"))
    lab.runs.append(again)
    again.until("hold", gate.exists)
    return again, gate


def lines(lab: Lab) -> int:
    return len((lab.work / "log.txt").read_text().splitlines())


def test_a_restore_that_takes_long_does_not_mind_being_asked(lab: Lab):
    run, gate = held_restoring(lab, "ckptrun.supervisor.restoring:Restorer._check")
    status = run.status()
    assert status["job_pid"] is None
    assert status["current"] == "restoring"
    gate.unlink()
    run.until("job_pid", lambda: run.status()["job_pid"])
    assert run.alive()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_before_the_restored_job_has_a_capsule_ends_the_run_at_once(lab: Lab, signum: int):
    run, _ = held_restoring(lab, "ckptrun.supervisor.restoring:Restorer._check")
    before = lines(lab)
    run.process.send_signal(signum)
    assert run.wait().code == 75
    lab.expect_nothing_left()
    assert lines(lab) == before
    assert len(lab.events("run-ended")) == 1


def test_a_restore_waits_until_a_dump_that_the_job_died_under_has_let_go(lab: Lab):
    gate = lab.folder / "gate"
    fault = Fault("ckptrun.journal:Journal.prepare", act=HOLD, gate=str(gate))
    slow = dataclasses.replace(lab, program=fault.program())
    run = slow.start(*JOB, options=("--interval", "off"))
    lab.runs.append(run)
    checkpoint = run.checkpoint()
    run.process.send_signal(signal.SIGUSR1)
    run.until("a dump", gate.exists)
    run.kill_job()
    run.event("restore-started")
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        assert not lab.events("job-restored"), "two incarnations use the journal"
        time.sleep(0.05)
    gate.unlink()
    assert run.event("job-restored")["checkpoint"] == checkpoint
    newer = run.checkpoint()
    assert run.restored(run.kill_job)["checkpoint"] == newer
    assert not lab.events("restore-failed")


def test_a_capsule_that_dies_under_a_restore_leaves_nothing_open(lab: Lab):
    gate = lab.folder / "gate"
    fault = Fault("ckptrun.supervisor.restoring:Restorer._run_criu", commits=0, act=HOLD, gate=str(gate))
    slow = dataclasses.replace(lab, program=fault.program())
    run = slow.start(*JOB, options=("--interval", "off"), stdin=subprocess.PIPE)
    lab.runs.append(run)
    run.checkpoint()
    newest = run.checkpoint()
    supervisor = psutil.Process(run.process.pid)
    before = supervisor.num_fds()
    run.kill_job()
    run.until("a new capsule", gate.exists)
    (init,) = supervisor.children()
    init.kill()
    gate.unlink()
    restored = run.event("job-restored")
    assert restored["checkpoint"] == newest
    run.until("nothing open that was not before", lambda: supervisor.num_fds() <= before)
