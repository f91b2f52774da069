"""As whom the job runs: the user who called sudo, or an ordinary user in a user namespace."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from jobs import count, family
from support.as_user import NOBODY, UNNAMED

if TYPE_CHECKING:
    from support.run import Lab

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else"),
]

JOBS = Path(__file__).parent / "jobs"
OFTEN = ("--interval", "0.5s")


@pytest.fixture
def sudo(sudo: Lab) -> Lab:
    sudo.options = OFTEN
    sudo.hold()
    return sudo


@pytest.fixture
def ordinary(ordinary: Lab) -> Lab:
    ordinary.options = OFTEN
    ordinary.hold()
    return ordinary


WHO = "import os, pwd; print(os.getuid(), os.getgid(), os.environ['HOME'], os.environ['USER'])"


def test_under_sudo_the_job_is_the_invoking_user(sudo: Lab):
    result = sudo.run(sys.executable, "-c", WHO)
    assert result.code == 0, result.err
    assert result.out.split() == [str(NOBODY), str(NOBODY), "/nonexistent", "nobody"]


def test_under_sudo_a_job_is_killed_and_restored_as_that_user(sudo: Lab):
    run = sudo.start(sys.executable, JOBS / "count.py", "--steps", 150)
    for _ in range(2):
        run.commit()
        run.restored(run.kill_job)
    assert Path(f"/proc/{run.job_pid()}").stat().st_uid == NOBODY
    result = run.finish()
    assert (result.code, result.out) == (0, f"{count.result(150)}\n"), result.err
    assert (sudo.work / "log.txt").read_text().splitlines() == count.lines(150)
    assert (sudo.work / "log.txt").stat().st_uid == NOBODY


def test_under_sudo_a_job_of_several_processes_resumes_after_ckptrun_was_killed(sudo: Lab):
    command = (sys.executable, JOBS / "family.py", 2, 150, 0.02)
    run = sudo.start(*command)
    run.commit()
    run.kill_supervisor()
    result = sudo.run(*command)
    assert result.code == 0, result.err
    assert result.out.splitlines()[-1] == family.result(2, 150)


def test_sudo_of_a_user_who_does_not_exist_is_refused(sudo: Lab):
    sudo.environment = {"SUDO_UID": str(UNNAMED), "SUDO_GID": str(UNNAMED)}
    result = sudo.run("true")
    assert result.code == 77
    assert str(UNNAMED) in result.err


def test_an_ordinary_users_job_runs(ordinary: Lab):
    result = ordinary.run("sh", "-c", "id -u; cat /proc/self/uid_map")
    assert result.code == 0, result.err
    assert str(UNNAMED) in result.out


def test_an_ordinary_users_job_is_killed_and_restored(ordinary: Lab):
    run = ordinary.start(sys.executable, JOBS / "count.py", "--steps", 150)
    for _ in range(2):
        run.commit()
        run.restored(run.kill_job)
    result = run.finish()
    assert (result.code, result.out) == (0, f"{count.result(150)}\n"), result.err
    assert (ordinary.work / "log.txt").read_text().splitlines() == count.lines(150)
    assert (ordinary.work / "log.txt").stat().st_uid == UNNAMED


def test_an_ordinary_users_job_of_several_processes_is_restored_again_and_again(ordinary: Lab):
    run = ordinary.start(sys.executable, JOBS / "family.py", 2, 250, 0.02)
    for _ in range(3):
        run.commit()
        run.restored(run.kill_job)
    result = run.finish()
    assert result.code == 0, result.err
    assert result.out.splitlines()[-1] == family.result(2, 250)


def test_an_ordinary_users_clock_goes_on(ordinary: Lab):
    script = (
        "import os, time\n"
        "last, step = time.monotonic(), 0\n"
        "while step < 120 or os.path.exists('hold'):\n"
        "    step += 1\n"
        "    time.sleep(0.02)\n"
        "    now = time.monotonic()\n"
        "    assert last < now < last + 60, (last, now)\n"
        "    last = now\n"
        "print('steady')\n"
    )
    run = ordinary.start(sys.executable, "-c", script)
    run.commit()
    run.restored(run.kill_job)
    result = run.finish()
    assert (result.code, result.out) == (0, "steady\n"), result.err


def test_an_ordinary_user_loses_ckptrun_and_goes_on(ordinary: Lab):
    command = (sys.executable, JOBS / "count.py", "--steps", 120)
    run = ordinary.start(*command)
    run.commit()
    run.kill_supervisor()
    result = ordinary.run(*command)
    assert (result.code, result.out) == (0, f"{count.result(120)}\n"), result.err
    assert (ordinary.work / "log.txt").read_text().splitlines() == count.lines(120)


def test_an_ordinary_user_stops_and_goes_on(ordinary: Lab):
    command = (sys.executable, JOBS / "count.py", "--steps", 120)
    run = ordinary.start(*command)
    run.until("log", (ordinary.work / "log.txt").exists)
    run.job_pid()
    run.process.terminate()
    assert run.wait().code == 75
    result = ordinary.run(*command)
    assert (result.code, result.out) == (0, f"{count.result(120)}\n"), result.err


def test_an_ordinary_user_is_told_once_which_files_do_not_come_back(ordinary: Lab):
    run = ordinary.start(sys.executable, "-c", "import time; time.sleep(600)")
    run.commit()
    run.restored(run.kill_job)
    run.kill_supervisor()
    assert run.stderr is not None
    assert run.stderr.data.count(b"changes to files cannot be watched here") == 1
    assert b"--preserve" in run.stderr.data


SENDERS = """
import os, pathlib
from ckptrun.job import effects

def send(payload, key):
    with pathlib.Path("sent").open("a") as file:
        print(payload, key, os.getuid(), os.getgid(), os.environ["HOME"], file=file)
"""


@pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="no interpreter without ckptrun")
def test_under_sudo_a_sender_is_run_as_the_invoking_user_and_finds_the_sdk(sudo: Lab):
    """ckptrun's own folders are root's alone, and the job's interpreter has no ckptrun installed."""
    (sudo.work / "senders.py").write_text(SENDERS)
    (sudo.work / "job.py").write_text("import senders; senders.effects.deferred('a', 'hello', senders.send)")
    sudo.environment = {**sudo.environment, "PYTHONPATH": ""}
    result = sudo.run("/usr/bin/python3", "job.py")
    assert (result.code, result.err) == (0, "")
    assert (sudo.work / "sent").read_text() == f"hello a {NOBODY} {NOBODY} /nonexistent\n"
