"""A job that dies is restored and its result is what it would have been."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from jobs import count, family, mapped, threads

if TYPE_CHECKING:
    from support.run import Lab

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("held")]

JOBS = Path(__file__).parent / "jobs"
OFTEN = ("--interval", "0.4s")


def test_a_killed_job_ends_as_if_nothing_had_happened(lab: Lab):
    run = lab.start(sys.executable, JOBS / "count.py", "--steps", 150, options=OFTEN)
    run.commit()
    run.restored(run.kill_job)
    result = run.finish()
    assert (result.code, result.out) == (0, f"{count.result(150)}\n"), result.err
    assert (lab.work / "log.txt").read_text().splitlines() == count.lines(150)


@pytest.mark.parametrize("signum", [signal.SIGSEGV, signal.SIGTERM, signal.SIGABRT])
def test_whatever_signal_ends_the_job_it_is_restored(lab: Lab, signum: int):
    run = lab.start(sys.executable, JOBS / "count.py", "--steps", 150, options=OFTEN)
    run.commit()
    run.restored(lambda: os.kill(run.job_pid(), signum))
    result = run.finish()
    assert (result.code, result.out) == (0, f"{count.result(150)}\n"), result.err


def test_a_job_that_fails_once_is_restored_and_gets_through(lab: Lab):
    trouble = lab.work / "trouble"
    trouble.touch()
    run = lab.start(sys.executable, JOBS / "count.py", "--steps", 120, "--fail-at", 80, "--if", "trouble")
    run.checkpoint()
    result = run.finish()
    assert (result.code, result.out) == (0, f"{count.result(120)}\n"), result.err
    assert "exit code 3" in result.err
    assert (lab.work / "log.txt").read_text().splitlines() == count.lines(120)


def test_a_restore_says_which_checkpoint_and_why(lab: Lab):
    run = lab.start(sys.executable, JOBS / "count.py", "--steps", 120, options=OFTEN)
    run.commit()
    event = run.restored(run.kill_job)
    result = run.finish()
    assert event["checkpoint"] in result.err
    assert "SIGKILL" in result.err


def test_several_kills_in_a_row_each_restore_goes_on_from_a_newer_checkpoint(lab: Lab):
    run = lab.start(sys.executable, JOBS / "count.py", "--steps", 300, options=OFTEN)
    used = []
    for _ in range(4):
        run.commit()
        used.append(run.restored(run.kill_job)["checkpoint"])
    result = run.finish()
    assert (result.code, result.out) == (0, f"{count.result(300)}\n"), result.err
    assert len(set(used)) == len(used)
    assert (lab.work / "log.txt").read_text().splitlines() == count.lines(300)


def test_two_kills_without_a_commit_between_them_restore_the_same_checkpoint_twice(lab: Lab):
    run = lab.start(sys.executable, JOBS / "count.py", "--steps", 100, "--pause", 0.03)
    first = run.checkpoint()
    assert run.restored(run.kill_job)["checkpoint"] == first
    assert run.restored(run.kill_job)["checkpoint"] == first
    result = run.finish()
    assert (result.code, result.out) == (0, f"{count.result(100)}\n"), result.err


def test_what_criu_writes_inside_the_job_is_not_taken_for_the_jobs(lab: Lab):
    run = lab.start(sys.executable, JOBS / "count.py", "--steps", 100, "--pause", 0.03)
    run.checkpoint()
    run.restored(run.kill_job)  # the restored processes themselves write the end of CRIU's log
    run.restored(run.kill_job)
    result = run.finish()
    assert "restore.log" not in result.err


def test_a_job_of_several_processes_survives_kill_after_kill(lab: Lab):
    run = lab.start(sys.executable, JOBS / "family.py", 3, 250, 0.02, options=OFTEN)
    for _ in range(3):
        run.commit()
        run.restored(run.kill_job)
    result = run.finish()
    assert result.code == 0, result.err
    assert result.out.splitlines()[-1] == family.result(3, 250)


def test_a_worker_killed_alone_is_the_jobs_own_affair(lab: Lab):
    script = "import os, signal, subprocess; p = subprocess.Popen(['sleep', '60']); p.kill(); print(p.wait())"
    assert lab.run(sys.executable, "-c", script).out == "-9\n"


def test_a_threaded_job_survives_kill_after_kill(lab: Lab):
    run = lab.start(sys.executable, JOBS / "threads.py", 4, 200, 0.02, options=OFTEN)
    for _ in range(3):
        run.commit()
        run.restored(run.kill_job)
    result = run.finish()
    assert result.code == 0, result.err
    assert result.out.splitlines()[-1] == threads.result(4, 200)


def test_files_that_are_mapped_rewritten_and_appended_to_are_exact_after_a_kill(lab: Lab):
    run = lab.start(sys.executable, JOBS / "mapped.py", 250, 0.02, options=OFTEN)
    for _ in range(3):
        run.commit()
        run.restored(run.kill_job)
    result = run.finish()
    assert result.code == 0, result.err
    mapping, record, log = mapped.undisturbed(250)
    assert (lab.work / "log.bin").read_bytes() == log
    assert (lab.work / "record.txt").read_bytes() == record
    assert (lab.work / "map.bin").read_bytes() == mapping
    assert result.out.split()[-1] == hashlib.sha256(mapping).hexdigest()[:16]


def test_a_daemonized_helper_belongs_to_the_job_and_is_restored_with_it(lab: Lab):
    script = (
        "import os, sys, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork(): os._exit(0)\n"
        "    n = 0\n"
        "    while os.getppid():\n"
        "        n += 1\n"
        "        with open('beat.new', 'w') as file: file.write(f'{n} {os.getpid()}')\n"
        "        os.replace('beat.new', 'beat')\n"
        "        time.sleep(0.02)\n"
        "os.wait()\n"
        "while os.path.exists('hold'): time.sleep(0.02)\n"
    )
    run = lab.start(sys.executable, "-c", script, options=OFTEN)

    def beat() -> list[str]:
        return (lab.work / "beat").read_text().split()

    run.until("beats", lambda: (lab.work / "beat").exists() and int(beat()[0]) > 20)
    run.commit()
    run.restored(run.kill_job)
    begun, helper = beat()
    assert int(begun) > 20
    run.until("more beats", lambda: int(beat()[0]) > int(begun) + 20)
    assert beat()[1] == helper
    result = run.finish()
    assert result.code == 0, result.err


def test_the_job_sees_one_pid_and_one_clock_all_along(lab: Lab):
    script = (
        "import os, time\n"
        "pid, last, step = os.getpid(), time.monotonic(), 0\n"
        "while step < 150 or os.path.exists('hold'):\n"
        "    step += 1\n"
        "    time.sleep(0.02)\n"
        "    now = time.monotonic()\n"
        "    assert os.getpid() == pid and now > last, (os.getpid(), pid, now, last)\n"
        "    last = now\n"
        "print('steady')\n"
    )
    run = lab.start(sys.executable, "-c", script, options=OFTEN)
    for _ in range(2):
        run.commit()
        run.restored(run.kill_job)
    result = run.finish()
    assert (result.code, result.out) == (0, "steady\n"), result.err


def test_restart_never_ends_with_the_first_failure(lab: Lab):
    run = lab.start(sys.executable, JOBS / "count.py", options=(*OFTEN, "--restart", "never"))
    run.commit()
    run.kill_job()
    assert run.wait().code == 137


def test_a_job_that_is_killed_too_often_is_given_up(lab: Lab):
    run = lab.start(
        sys.executable, JOBS / "count.py", "--steps", 5000, options=(*OFTEN, "--max-restarts", "1")
    )
    run.commit()
    run.restored(run.kill_job)
    run.kill_job()
    result = run.wait()
    assert result.code == 137, result.err
    assert lab.ask("ls", "--json").json[0]["state"] == "failed"


def test_status_tells_of_the_restart(lab: Lab):
    run = lab.start(sys.executable, JOBS / "count.py", "--steps", 5000, options=OFTEN)
    run.commit()
    run.restored(run.kill_job)
    shown = lab.ask("status", "--json")
    assert shown.code == 0, shown.err
    status = shown.json
    assert (status["pid"], status["restarts"], status["incarnation"]) == (run.process.pid, 1, 2)
    assert "SIGKILL" in str(status["last_failure"])
    assert psutil.Process(status["job_pid"]).cmdline()[1].endswith("count.py")
    assert 0 <= status["next_checkpoint_seconds"] <= 0.4
    assert status["staging_bytes"] > 0


def test_a_checkpoint_on_request_is_committed_when_the_command_returns(lab: Lab):
    run = lab.start(sys.executable, JOBS / "count.py", "--steps", 5000)
    run.job_pid()
    asked = lab.ask("checkpoint", "--wait")
    assert asked.code == 0, asked.err
    (checkpoint,) = lab.checkpoints()
    assert checkpoint["id"] == asked.out.strip()
    assert (checkpoint["state"], checkpoint["trigger"]) == ("committed", "request")
    assert 0 < checkpoint["frozen_seconds"] < 10
    assert checkpoint["memory_bytes"] > 1_000_000
    assert checkpoint["stored_bytes"] > 0


def test_sigusr1_asks_for_a_checkpoint(lab: Lab):
    run = lab.start(sys.executable, JOBS / "count.py", "--steps", 5000)
    run.job_pid()
    run.process.send_signal(signal.SIGUSR1)
    run.event("checkpoint-committed")


def test_only_the_newest_checkpoints_are_kept(lab: Lab):
    run = lab.start(sys.executable, JOBS / "count.py", "--steps", 5000, options=(*OFTEN, "--keep", "last=2"))
    run.commit(4)
    assert len(lab.checkpoints()) == 2
