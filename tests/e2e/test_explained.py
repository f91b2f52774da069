"""What cannot be checkpointed is named before it is tried, and what can be cured by itself is."""

from __future__ import annotations

import _ctypes
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support.as_user import command
from support.processes import die_with_parent
from support.run import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IO_URING = """
import ctypes, sys, time
libc = ctypes.CDLL(None, use_errno=True)
fd = libc.syscall(425, 4, ctypes.create_string_buffer(200))
print("ready" if fd >= 0 else "none", flush=True)
while True: time.sleep(0.1)
"""

CONNECTED = """
import socket, sys, time
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
print("ready", flush=True)
while True: time.sleep(0.1)
"""

CONNECTED_INSIDE = """
import os, socket, time
ours, theirs = socket.socketpair()
if os.fork() == 0:
    ours.close()
    theirs.recv(1)  # until the parent is gone
    os._exit(0)
print("ready", flush=True)
while True: time.sleep(0.1)
"""

CUDA = """
import ctypes, sys, time
libraries = [ctypes.CDLL(path) for path in sys.argv[1:]]
print("ready", flush=True)
while True: time.sleep(0.1)
"""

READER = """
import sys, time
f = open(sys.argv[1])
n = 0
while True:
    n += 1
    print("tick", n, flush=True)
    time.sleep(0.05)
"""


@contextlib.contextmanager
def program(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program that is not under ckptrun, once it is as it should be."""
    process = subprocess.Popen(
        [sys.executable, "-c", *words],
        stdout=subprocess.PIPE,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call
    )
    try:
        assert process.stdout
        line = process.stdout.readline()
        if line == b"none\n":
            pytest.skip("this kernel has no io_uring")
        assert line == b"ready\n"
        yield process
        assert process.poll() is None, "the doctor has not disturbed it"
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def doctor(lab: Lab, pid: int, code: int) -> dict[str, dict[str, str]]:
    """Ask the doctor about a process; return its checks by name."""
    asked = lab.execute(lab.argv("doctor", "--pid", str(pid), "--json"))
    assert asked.code == code, asked.err
    answer = json.loads(asked.out)
    assert answer["ok"] == (code == 0)
    return {check["name"]: check for check in answer["checks"]}


def test_the_doctor_names_an_io_uring_program(lab: Lab):
    with program(IO_URING) as process:
        check = doctor(lab, process.pid, 69)["io-uring"]
        assert not check["ok"]
        assert f"process {process.pid} (" in check["detail"]
        assert "fd 3" in check["detail"]
        assert "run it without --allow-io-uring" in check["remedy"]
        told = lab.execute(lab.argv("doctor", "--pid", str(process.pid))).out
        assert check["detail"] in told
        assert check["remedy"] in told


def test_the_doctor_names_a_program_connected_to_a_process_outside_of_its_tree(lab: Lab):
    path = lab.folder / "peer"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with program(CONNECTED, str(path)) as process, listener.accept()[0]:
            check = doctor(lab, process.pid, 69)["unix-stream-outside"]
            assert f"process {process.pid} (" in check["detail"]
            assert f"fd 3: {path}" in check["detail"]
            assert "close that connection" in check["remedy"]
    with program(CONNECTED_INSIDE) as process:
        assert "unix-stream-outside" not in doctor(lab, process.pid, 0), "here both ends are in the tree"


def test_the_doctor_tells_cuda_libraries_from_a_gpu_in_use(lab: Lab):
    paths = [lab.folder / "libcuda.so.1", lab.folder / "libcudart.so.12"]
    for path in paths:
        shutil.copy(_ctypes.__file__, path)
    with program(CUDA, *map(str, paths)) as process:
        check = doctor(lab, process.pid, 0)["cuda-libraries"]
        assert check["ok"]
        assert f"process {process.pid} (" in check["detail"]
        assert "libcuda.so.1, libcudart.so.12" in check["detail"]
        assert "no GPU device in use" in check["detail"]
        assert "nothing to do" in check["remedy"]


PIPES = """
import os, time
pipes = [os.pipe2(os.O_DIRECT) for _ in range(3)]
print("ready", flush=True)
while True: time.sleep(0.1)
"""


def test_what_a_process_holds_more_than_once_is_told_once(lab: Lab):
    with program(PIPES) as process:
        check = doctor(lab, process.pid, 69)["packet-pipe"]
        assert "(fd 4)" in check["detail"]
        assert check["detail"].endswith(", and 2 more of that kind")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone else")
def test_an_ordinary_user_is_told_what_may_not_be_looked_at(tmp_path: Path):
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    with Lab(tmp_path, prefix=command(65534, 65534, home)) as lab, program(PIPES) as process:
        check = doctor(lab, process.pid, 69)["access"]
        assert f"process {process.pid} (" in check["detail"]
        assert "as root" in check["remedy"]


@pytest.mark.slow
def test_a_job_that_uses_io_uring_all_the_same_is_refused_by_name_and_not_stopped(lab: Lab):
    run = lab.start(sys.executable, "-c", IO_URING, options=("--allow-io-uring",))
    run.refused(
        "holds an io_uring ring (fd 3)", "run it without --allow-io-uring", f"{run.job_pid()} on this machine"
    )
    (failed,) = lab.events("checkpoint-failed")
    assert "io_uring" in failed["reason"]
    assert list((lab.run_dir / "logs").iterdir()) == [], "CRIU was not even started"
    assert "io-uring" in doctor(lab, run.job_pid(), 69)
    run.kill_job()
    run.wait()


@pytest.mark.slow
def test_a_job_under_ckptrun_is_looked_at_as_a_whole(lab: Lab):
    run = lab.start(sys.executable, "-c", READER, os.devnull)
    run.prints("tick 3")
    checks = doctor(lab, run.job_pid(), 0)
    assert "and 1 below it" in checks["processes"]["detail"], "the job root stands for all of the capsule"
    assert "capsule" not in checks
    run.kill_job()
    run.wait()


@pytest.mark.slow
def test_changed_permissions_of_a_file_that_the_job_only_reads_cost_a_second_try(lab: Lab, tmp_path: Path):
    data = tmp_path / "data"
    data.write_text("x")
    run = lab.start(sys.executable, "-c", READER, data)
    run.prints("tick 3")
    run.checkpoint()
    data.chmod(0o640)
    run.restored(run.kill_job)
    retried = run.event("restore-retried")  # told after the restore itself
    assert f"{data} has other permissions" in retried["reason"]
    assert "--skip-file-rwx-check" in retried["reason"]
    run.says("the restore took two tries")
    run.kill_job()


GHOST = """
import os, sys, time
f = open(sys.argv[1], "w+b")
os.posix_fallocate(f.fileno(), 0, (1 << 30) + (1 << 20))
os.unlink(sys.argv[1])
f.write(b"kept"); f.flush()
print("ready", flush=True)
n = 0
while True:
    n += 1
    f.seek(0)
    print("tick", n, f.read(4).decode(), f.seek(0, 2), flush=True)
    time.sleep(0.05)
"""


@pytest.mark.slow
def test_a_removed_file_of_more_than_a_gigabyte_costs_a_second_try(lab: Lab, tmp_path: Path):
    run = lab.start(sys.executable, "-c", GHOST, tmp_path / "ghost")
    run.prints("tick 3 ")
    run.checkpoint()
    (retried,) = lab.events("checkpoint-retried")
    assert f"(fd 3: {tmp_path}/ghost)" in retried["reason"]
    assert "--ghost-limit" in retried["reason"]
    run.restored(run.kill_job)
    assert run.stdout is not None
    before = len(run.stdout.data)
    wanted = b"kept %d\n" % ((1 << 30) + (1 << 20))
    run.until("more output", lambda: wanted in run.stdout.data[before:])
    run.kill_job()
