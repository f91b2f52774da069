"""The job root: it keeps the tree together, passes signals on, and ends as the job ended."""

from __future__ import annotations

import os
import signal
import time
import uuid
from typing import TYPE_CHECKING

import psutil
import pytest
from live import COUNTER, MARK, marked, wait_until

from ckptrun.capsule.capsule import ROOT_PID

if TYPE_CHECKING:
    from live import Job, Machine

SH = "/bin/sh"


def ended(job: Job) -> int:
    return job.exit_of(ROOT_PID)


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 41", 41), ("kill -TERM $$", -15), ("kill -KILL $$", -9), ("kill -SEGV $$", -11)],
)
def test_it_ends_as_the_job_ended(machine: Machine, script: str, code: int):
    assert ended(machine.job([SH, "-c", script])) == code


def test_a_command_that_is_not_there_ends_it_with_127_and_one_that_may_not_run_with_126(machine: Machine):
    assert ended(machine.job(["no-such-command-anywhere"])) == 127
    (machine.folder / "plain").write_text("not executable")
    assert ended(machine.job([str(machine.folder / "plain")])) == 126


def test_the_command_is_found_by_the_jobs_own_path(machine: Machine):
    (machine.folder / "hello").write_text("#!/bin/sh\necho found\n")
    (machine.folder / "hello").chmod(0o755)
    machine.job(["hello"], env={"PATH": f"/nowhere:{machine.folder}"}).out.find("found")


CATCH = """
import os, signal, sys, time
def say(*words): os.write(1, (" ".join(words) + "\\n").encode())  # in one piece: two processes write
def caught(number, frame): say("caught", signal.Signals(number).name)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT):
    signal.signal(number, caught)
if os.fork() == 0:
    signal.signal(signal.SIGINT, lambda n, f: say("child too"))
    signal.signal(signal.SIGTERM, lambda n, f: say("child of TERM"))
    say("child up")
    while True: time.sleep(1)
say("up")
while True: time.sleep(1)
"""


def test_signals_reach_the_job_and_those_of_a_terminal_its_whole_group(machine: Machine):
    job = machine.job(CATCH)
    job.out.find("^up")
    job.out.find("^child up")
    for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGTERM", "SIGINT"):
        job.signal(signal.Signals[name])
        job.out.find(f"caught {name}")
    job.out.find("child too")
    assert "child of TERM" not in job.out.all


def test_a_signal_that_kills_the_job_is_how_the_root_ends(machine: Machine):
    job = machine.job([SH, "-c", "echo up; exec sleep 100"])
    job.out.find("up")
    job.signal(signal.SIGTERM)
    assert ended(job) == -signal.SIGTERM


def test_sigkill_to_the_root_ends_the_root(machine: Machine):
    job = machine.job([SH, "-c", "echo up; exec sleep 100"])
    job.out.find("up")
    job.signal(signal.SIGKILL)
    assert ended(job) == -signal.SIGKILL


def test_a_stopped_job_is_reported_and_goes_on_with_sigcont(machine: Machine):
    # Not a shell that starts programs: one stopped between vfork and exec leaves the shell waiting, not stopped.
    job = machine.job(COUNTER)
    job.out.find("tick 3")
    job.signal(signal.SIGTSTP)
    wait_until(lambda: job.stops == [ROOT_PID])
    job.out.settled()
    before = len(job.out.all)
    time.sleep(0.2)
    assert len(job.out.all) == before
    job.signal(signal.SIGCONT)
    job.out.goes_on()


DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(100)
    os._exit(0)
os.wait()
print("up", flush=True)
time.sleep(100)
"""


def test_a_double_forked_helper_stays_in_the_tree(machine: Machine):
    job = machine.job(DAEMON)
    job.out.find("up")
    wait_until(lambda: len(job.capsule.job_pids()) == 3)
    root = psutil.Process(job.capsule.job_pids()[0])
    assert len(root.children()) == 2


def test_zombies_of_double_forked_helpers_are_reaped(machine: Machine):
    job = machine.job([SH, "-c", "for i in 1 2 3 4 5; do (sh -c : &); done; sleep 0.1; echo up; sleep 100"])
    job.out.find("up")
    wait_until(lambda: len(job.capsule.job_pids()) == 3)


def test_it_ends_although_workers_hold_the_output(machine: Machine):
    job = machine.job([SH, "-c", "sleep 100 & setsid sleep 100 & echo up; exit 5"])
    assert ended(job) == 5
    assert not job.out.ended.is_set()
    job.capsule.destroy()
    wait_until(job.out.ended.is_set)


def test_numbers_start_at_1000(machine: Machine):
    job = machine.job([SH, "-c", "echo $$; sh -c 'echo $$'; sleep 100"])
    job.out.find("^1001$")
    job.out.find("^1002$")


def test_the_whole_environment_is_the_one_asked_for(machine: Machine):
    mark = uuid.uuid4().hex
    job = machine.job([SH, "-c", "echo up; sleep 100"], env={MARK: mark, "PATH": os.environ["PATH"]})
    job.out.find("up")
    wait_until(
        lambda: len(marked(mark)) == 3,
        what="the root, the shell, and the sleep that it starts after its word",
    )
