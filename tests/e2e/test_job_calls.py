"""What a job says to ckptrun through its SDK, on this machine and after a move to another one."""

from __future__ import annotations

import json
import os
import socket
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.run import REPOSITORY

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
def test_a_checkpoint_that_does_not_wait_returns_when_it_is_staged_also_without_a_private_tmp(lab: Lab):
    run = lab.start(*JOB, "asking", "staged", options=("--no-private-tmp",))
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


def test_a_rollback_that_repeats_itself_gives_up_as_a_failing_job_does(lab: Lab):
    lab.environment = {"ROLLBACKS": "100"}
    result = lab.run(*JOB, "rolling_back")
    assert result.code == 137, result.err
    assert "refused there is no checkpoint to go back to yet" in result.out
    assert "the job asks to be rolled back: loss is nan" in result.err
    assert lab.events("job-ended")[0]["cause"] == "rollback: loss is nan"
    assert "giving up: the job ended with rollback: loss is nan" in result.err
    assert word(result, "tries") == [["0"], ["1"]]


@pytest.mark.usefixtures("held")
def test_a_job_that_falls_silent_is_killed_and_restored_also_where_it_promised_nothing_yet(lab: Lab):
    run = lab.start(*JOB, "promising")
    run.prints("restores 0")
    move(lab, run)
    result = lab.start(*JOB, "promising").wait()
    assert result.code == 0, result.err
    assert word(result, "restores")[-1] == ["2"]
    assert lab.events("heartbeat-lost")
    assert "the job has given no heartbeat for" in result.err
    assert "the job ended with a lost heartbeat" in result.err


def test_a_checkpoint_waits_for_the_end_of_a_critical_section_or_of_its_time(lab: Lab):
    result = lab.run(*JOB, "critical")
    assert result.code == 0, result.err
    assert "refused checkpoint() inside critical()" in result.out
    assert word(result, "inside") == [["[]"]]
    ((first, left),) = word(result, "taken")
    ((second,),) = word(result, "overdue")
    later, earlier = lab.checkpoints()
    assert (earlier["id"], later["id"]) == (first, second)
    assert datetime.fromisoformat(earlier["created"]).timestamp() >= float(left)
    assert result.err.count("a critical section of the job's has lasted 0.3 s") == 1


def test_a_process_that_is_killed_in_a_section_or_an_effect_holds_nothing_back(lab: Lab):
    result = lab.run(*JOB, "dying")
    assert result.code == 0, result.err
    assert word(result, "settled") == [["again"]]
    assert [shown["id"] for shown in lab.checkpoints()] == word(result, "taken")[0]
    assert "has lasted" not in result.err


@pytest.mark.usefixtures("held")
def test_a_flood_of_notices_and_what_others_send_disturb_nothing(lab: Lab):
    run = lab.start(*JOB, "flooding")
    run.prints("flooding")
    fd = os.open(lab.run_dir / "channel" / "notify", os.O_PATH)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as foreign:
        for number in range(3):
            request = {"v": 1, "id": f"foreign-{number}", "do": "checkpoint"}
            foreign.sendto(json.dumps(request).encode(), f"/proc/self/fd/{fd}/socket")
        foreign.sendto(b"STATUS=somebody else's", f"/proc/self/fd/{fd}/socket")
    os.close(fd)
    assert run.finish().code == 0  # what the job asks now, ckptrun reads after what the foreigner has sent
    (shown,) = lab.checkpoints()
    assert set(shown["metric"]) == {"step"}
    assert len(lab.events("checkpoint-staged")) == 1
    assert not (lab.run_dir / "channel").exists()


@pytest.mark.usefixtures("held")
def test_figures_and_what_sd_notify_programs_say_are_shown_and_passed_on(lab: Lab, tmp_path: Path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "manager"))
        manager.settimeout(30)
        lab.environment = {"NOTIFY_SOCKET": str(tmp_path / "manager")}
        run = lab.start(*JOB, "notifying")
        run.prints("notified")
        assert run.status()["status"] == "step 7 of 9"
        (shown,) = lab.checkpoints()
        assert shown["metric"] == {"loss": 0.25, "accuracy": 1.0}
        run.restored(run.kill_job)
        run.checkpoint()
        assert lab.checkpoints()[0]["metric"] is None  # these figures were another incarnation's
        assert run.finish().code == 0
        told = [manager.recv(1000).decode() for _ in range(4)]
    assert told == ["READY=1\nSTATUS=Loading", "WATCHDOG=1", "STATUS=step 7 of 9", "STOPPING=1"]


def test_the_example_of_the_page_does_what_the_page_says(lab: Lab):
    page = (REPOSITORY / "docs" / "job.md").read_text(encoding="utf-8")
    (lab.work / "train.py").write_text(page.split("```python\n")[1].split("```")[0], encoding="utf-8")
    result = lab.run(sys.executable, "train.py")
    assert result.code == 0, result.err
    steps = [line.split()[1] for line in result.out.splitlines() if line.startswith("step ")]
    assert steps[0] == "20"
    assert steps[-2:] == ["40", "60"]
    assert result.out.splitlines()[-1] == "done"
    assert "restored from a checkpoint" in result.out
    assert "rolled back: loss is nan" in result.err
    assert (lab.work / "model.ready").read_text() == "60\n"
    assert [sorted(shown["metric"] or {}) for shown in lab.checkpoints()] == [["loss"]] * 3
