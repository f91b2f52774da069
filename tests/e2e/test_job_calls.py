"""What a job says to ckptrun through its SDK, on this machine and after a move to another one."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.run import Lab, Result, Run

pytestmark = pytest.mark.slow

JOB = (sys.executable, Path(__file__).parent / "jobs" / "talking_job.py")


def word(result: Result, name: str) -> list[list[str]]:
    """Return what follows a word at the beginning of lines."""
    return [line.split()[1:] for line in result.out.splitlines() if line.split()[:1] == [name]]


def move(lab: Lab, run: Run) -> None:
    run.kill_supervisor()
    lab.lose_machine()


@pytest.mark.usefixtures("held")
def test_a_checkpoint_that_waits_returns_the_id_it_was_restored_from_here_and_elsewhere(lab: Lab):
    lab.environment = {"TODAY": "monday"}
    run = lab.start(*JOB, "asking", "wait")
    run.prints("committed")
    (shown,) = lab.checkpoints()
    run.restored(run.kill_job)
    run.until("two answers", lambda: run.stdout.data.count(b"\ncheckpoint ") == 2)
    move(lab, run)

    lab.environment = {"TODAY": "tuesday"}
    result = lab.start(*JOB, "asking", "wait").finish()
    assert result.code == 0, result.err
    assert word(result, "checkpoint") == [[shown["id"], "incarnation", "1", "restores", "1"]]
    assert word(result, "restored") == [["incarnation", "1", "restores", "1"]]
    assert word(result, "environment") == [["tuesday", "monday"]]
    assert word(result, "left") == [["[]"]]


@pytest.mark.usefixtures("held")
def test_a_checkpoint_that_does_not_wait_returns_when_it_is_staged(lab: Lab):
    run = lab.start(*JOB, "asking", "staged")
    run.prints("committed")
    run.restored(run.kill_job)
    result = run.finish()
    assert result.code == 0, result.err
    (shown,) = lab.checkpoints()
    (answer,) = {words[0] for words in word(result, "checkpoint")}
    assert answer == shown["id"]
    assert word(result, "checkpoint")[-1][1:] == ["incarnation", "2", "restores", "1"]


@pytest.mark.parametrize("machine", ["ordinary", "sudo"])
def test_other_users_jobs_talk_as_well(request: pytest.FixtureRequest, machine: str):
    if os.geteuid():
        pytest.skip("needs root, to become another user")
    lab: Lab = request.getfixturevalue(machine)
    lab.hold()
    lab.environment = {**lab.environment, "TODAY": "monday"}
    run = lab.start(*JOB, "asking", "wait")
    run.prints("committed")
    move(lab, run)
    lab.home.chmod(0o777)
    lab.environment = {**lab.environment, "TODAY": "tuesday"}
    result = lab.start(*JOB, "asking", "wait").finish()
    assert result.code == 0, result.err
    assert word(result, "environment") == [["tuesday", "monday"]]
    assert word(result, "checkpoint")[0][1:] == ["incarnation", "1", "restores", "1"]


@pytest.mark.usefixtures("held")
def test_a_job_without_a_private_tmp_talks_as_well(lab: Lab):
    run = lab.start(*JOB, "asking", "wait", options=("--no-private-tmp",))
    run.prints("committed")
    run.restored(run.kill_job)
    result = run.finish()
    assert result.code == 0, result.err


@pytest.mark.usefixtures("held")
def test_nobody_but_the_job_is_heard(lab: Lab):
    run = lab.start(*JOB, "twice")
    run.prints("first")
    fd = os.open(lab.run_dir / "channel" / "notify", os.O_PATH)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as foreign:
        for number in range(3):
            request = {"v": 1, "id": f"foreign-{number}", "do": "checkpoint"}
            foreign.sendto(json.dumps(request).encode(), f"/proc/self/fd/{fd}/socket")
    os.close(fd)
    result = run.finish()  # what the job asks now, ckptrun reads after what the foreigner has sent
    assert result.code == 0, result.err
    assert len(lab.checkpoints()) == 2
    assert not (lab.run_dir / "channel").exists()
