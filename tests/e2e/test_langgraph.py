"""Agents whose threads ckptrun keeps: killed at random, restored here and elsewhere, their history is as if left alone.

CKPTRUN_TEST_SEED repeats a run's choices.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.processes import PATIENCE
from support.run import COMMITTED, RESTORED, seed

if TYPE_CHECKING:
    from support.run import Lab

pytestmark = pytest.mark.slow

JOB = (sys.executable, Path(__file__).parent / "jobs" / "agents.py")
INTERVAL = 0.4
OFTEN = ("--interval", f"{INTERVAL}s", "--max-restarts", "1000")
KINDS = ("job", "elsewhere", "job", "supervisor")


def alone(lab: Lab, *words: object) -> list[str]:
    """Return what a story prints in a process of its own, without ckptrun."""
    done = subprocess.run(
        [*map(str, JOB), *map(str, words)],
        env=lab.env,
        cwd=lab.home,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.usefixtures("held")
def test_an_agent_killed_at_random_here_and_elsewhere_has_the_history_of_one_left_alone_and_goes_on_in_the_next_run(
    lab: Lab,
):
    choices = random.Random(seed())
    wanted = alone(lab, "thinking", 2)
    run = lab.start(*JOB, "thinking", 1, options=OFTEN)
    for kind in KINDS:
        run.commit()
        time.sleep(choices.uniform(0, INTERVAL))
        restored = len(lab.events(RESTORED))
        if kind == "job":
            run.kill_job()
        else:
            run.kill_supervisor()
            if kind == "elsewhere":
                lab.lose_machine()
                restored = 0
            run = lab.start(*JOB, "thinking", 1, options=OFTEN)
        run.until("restore", lambda count=restored: len(lab.events(RESTORED)) > count)
    result = run.finish()
    assert result.code == 0, result.err
    middle = wanted.index("first turn 24 waiting for ['ask']")
    assert result.out.splitlines() == wanted[:middle]
    lab.lose_machine()
    again = lab.run(*JOB, "thinking", 1, options=OFTEN)
    assert again.code == 0, again.err
    assert again.out.splitlines() == wanted[middle:]


def test_langgraphs_own_tests_pass_under_ckptrun(lab: Lab):
    result = lab.run(*JOB, "conforming")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert report["conformance_level"] == "FULL"
    failed = {name: found["failures"] for name, found in report["results"].items() if not found["passed"]}
    assert failed == {}


@pytest.mark.usefixtures("held")
def test_threads_and_processes_of_a_job_keep_their_threads_at_once_and_over_a_restore(lab: Lab):
    run = lab.start(*JOB, "many")
    for name in "abcd":
        run.prints(f"ready {name}")
    (lab.work / "go").touch()  # now all four are at it
    run.checkpoint()
    run.restored(run.kill_job)
    result = run.finish()
    assert result.code == 0, result.err
    told = [line for line in result.out.splitlines() if not line.startswith("ready")]
    assert told == [line for line in alone(lab, "many") if not line.startswith("ready")]


@pytest.mark.usefixtures("held")
def test_a_durable_agent_has_every_step_in_the_store_and_is_refused_where_it_would_wait_for_itself(lab: Lab):
    run = lab.start(*JOB, "durable")
    run.prints("kept 8")
    assert len(lab.events(COMMITTED)) == 8
    run.kill_supervisor()
    lab.lose_machine()
    result = lab.start(*JOB, "durable").finish()
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert [line.split()[0] for line in lines] == ["kept", "critical", "effect", "restores"]
    assert "inside critical() or an effect" in lines[1]
    assert lines[3] == "restores 1 kept 8"
