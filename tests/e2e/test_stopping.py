"""Stopping ckptrun: a last checkpoint, exit 75, and the same command goes on from there."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from jobs import count
from support.processes import die_with_parent

if TYPE_CHECKING:
    from support.run import Lab

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("held")]

JOBS = Path(__file__).parent / "jobs"
PIPE_BYTES = 1 << 16
STEPS = 150
COUNT = (sys.executable, JOBS / "count.py", "--steps", STEPS)


def counted(lab: Lab) -> int:
    log = lab.work / "log.txt"
    return log.read_text().count("\n") if log.exists() else 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stopped_run_ends_with_75_and_goes_on_where_it_stood(lab: Lab, signum: int):
    run = lab.start(*COUNT)
    run.until("some steps", lambda: counted(lab) >= 20)
    run.process.send_signal(signum)
    stopped = run.wait()
    assert stopped.code == 75, stopped.err
    assert "run the same command" in stopped.err
    (checkpoint,) = lab.checkpoints()
    assert checkpoint["trigger"] == "preemption"
    at_the_end = counted(lab)

    again = lab.start(*COUNT)
    again.event("job-restored")
    assert counted(lab) >= at_the_end  # stopped at the very state of its checkpoint: no step is done twice
    result = again.finish()
    assert (result.code, result.out) == (0, f"{count.result(150)}\n"), result.err
    assert (lab.work / "log.txt").read_text().splitlines() == count.lines(150)


def test_a_job_that_ignores_sigterm_is_stopped_all_the_same(lab: Lab):
    run = lab.start(*COUNT, "--ignore-term")
    run.until("some steps", lambda: counted(lab) >= 5)
    run.process.terminate()
    assert run.wait().code == 75


def test_the_stop_command_returns_when_the_job_is_stopped(lab: Lab):
    run = lab.start(*COUNT)
    run.until("some steps", lambda: counted(lab) >= 5)
    asked = lab.ask("stop", "--json")
    assert asked.code == 0, asked.err
    assert run.wait().code == 75
    assert asked.json["id"] == lab.checkpoints()[0]["id"]


def test_stopped_again_and_again_the_result_is_exact(lab: Lab):
    for _ in range(3):
        before = counted(lab)
        run = lab.start(*COUNT)
        run.job_pid()
        run.until("some steps", lambda before=before: counted(lab) >= min(before + 20, STEPS - 1))
        run.process.terminate()
        assert run.wait().code == 75
    result = lab.start(*COUNT).finish()
    assert (result.code, result.out) == (0, f"{count.result(150)}\n"), result.err
    assert (lab.work / "log.txt").read_text().splitlines() == count.lines(150)


def test_nohup_keeps_a_run_alive(lab: Lab):
    hung = subprocess.Popen(
        ["nohup", *lab.run_argv("sh", "-c", "echo up; until [ -e go ]; do sleep 0.05; done; echo done")],
        cwd=lab.work,
        env=lab.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call
    )
    with hung:
        assert hung.stdout is not None
        assert hung.stdout.readline() == b"up\n"
        hung.send_signal(signal.SIGHUP)
        assert lab.ask("checkpoint", "--wait").code == 0, "it goes on"
        (lab.work / "go").touch()
        assert hung.stdout.read() == b"done\n"
    assert hung.returncode == 0
    assert not lab.events("stop-requested")


def test_when_no_checkpoint_can_be_taken_the_job_gets_the_signal(lab: Lab):
    script = (
        "import signal, sys, time\n"
        "def stop(*_): print('told to stop', flush=True); sys.exit(5)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "import ctypes\n"
        "libc = ctypes.CDLL(None)\n"
        "fd = libc.syscall(447, 0)\n"  # memfd_secret cannot be dumped
        "print('ready', fd >= 0, flush=True)\n"
        "while True: time.sleep(0.05)\n"
    )
    run = lab.start(sys.executable, "-c", script, options=("--grace", "4s"))
    run.prints("ready")
    if b"ready False" in run.stdout.data:
        pytest.skip("this kernel has no memfd_secret")
    run.process.terminate()
    result = run.wait()
    assert "told to stop" in result.out, result.err
    assert result.code == 5


def test_a_stop_does_not_wait_for_a_reader_that_reads_nothing(lab: Lab):
    reader, writer = os.pipe()
    run = lab.start("yes", stdout=writer)
    os.close(writer)
    run.until("a full pipe", lambda: waiting(reader) >= PIPE_BYTES)
    run.process.terminate()
    result = run.wait()
    assert result.code == 75
    assert "nobody reads stdout" in result.err
    os.close(reader)


def test_a_slow_reader_gets_all_that_a_job_wrote(lab: Lab):
    reader, writer = os.pipe()
    run = lab.start("seq", "1", "40000", stdout=writer)
    os.close(writer)
    run.until("a full pipe", lambda: waiting(reader) >= PIPE_BYTES)
    time.sleep(4)
    with os.fdopen(reader) as output:
        assert output.read() == "".join(f"{n}\n" for n in range(1, 40001))
    assert run.wait().code == 0


def waiting(pipe: int) -> int:
    """Return how many bytes lie in a pipe."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4), sys.byteorder)
