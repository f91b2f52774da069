"""One capsule: made, used, ended; and every way in which that can fail."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from live import MARK, PYTHON, descriptors, marked, wait_until
from support.processes import PATIENCE

from ckptrun.capsule.capsule import START_SECONDS, Callbacks, Capsule
from ckptrun.capsule.helper import HIDDEN, Helper, find
from ckptrun.capsule.spec import CapsuleSpec, Identity, Program
from ckptrun.errors import MissingFeatureError, PermissionMissingError

if TYPE_CHECKING:
    from live import Machine

SH = "/bin/sh"
TESTS = Path(__file__).parents[1]


def refusal(capsule: Capsule, kind: type[Exception] = MissingFeatureError) -> str:
    children = {child.pid for child in psutil.Process().children()}
    started = time.monotonic()
    with pytest.raises(kind) as caught:
        capsule.start()
    assert time.monotonic() - started < START_SECONDS, "it says so, instead of not answering"
    wait_until(
        lambda: {child.pid for child in psutil.Process().children()} <= children, what="init is reaped"
    )
    return str(caught.value)


def quiet() -> Callbacks:
    return Callbacks(lambda _pid, _status: None, lambda _pid: None, lambda: None)


def test_an_ended_capsule_leaves_no_process_and_says_so_once(machine: Machine):
    box = machine.box()
    mark = uuid.uuid4().hex
    environment = {MARK: mark, "PATH": os.environ["PATH"]}
    box.capsule.spawn(Program([SH, "-c", "setsid sleep 100 & sleep 100"], environment, "/"))
    wait_until(lambda: len(marked(mark)) == 3)
    box.capsule.destroy()
    assert marked(mark) == []
    assert box.gone.is_set()
    box.capsule.destroy()
    assert box.capsule.host_pids() == []


def test_ending_a_capsule_twice_never_signals_a_stranger_that_got_inits_number(machine: Machine):
    box = machine.box()
    box.capsule.destroy()
    stranger = subprocess.Popen(["sleep", "100"])
    box.capsule.init_pid = stranger.pid  # as if the number had come round
    box.capsule.destroy()
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_a_mount_that_fails_is_named(machine: Machine):
    spec = CapsuleSpec(find(), {"tmp": machine.folder / "missing"})
    message = refusal(Capsule(spec, quiet()))
    assert f"mount {HIDDEN}/tmp: No such file or directory" in message


def test_a_helper_that_is_gone_when_the_capsule_copies_it_is_named():
    class Vanishing(CapsuleSpec):
        def words(self) -> list[bytes]:
            words = super().words()
            return [b"/nonexistent/stub" if word == os.fsencode(str(find().path)) else word for word in words]

    message = refusal(Capsule(Vanishing(find(), {}), quiet()))
    assert "copy /nonexistent/stub: No such file or directory" in message


def test_a_helper_that_is_not_installed_is_named(tmp_path: Path):
    with pytest.raises(MissingFeatureError, match="ckptrun-stub cannot be read"):
        find(str(tmp_path / "ckptrun-stub"))


def test_a_namespace_the_kernel_refuses_is_a_missing_permission():
    spec = CapsuleSpec(find(), {}, user_namespace=(4_000_000_000, 0))
    assert "userns" in refusal(Capsule(spec, quiet()), PermissionMissingError)


@pytest.mark.parametrize(
    ("argv", "cwd", "number", "stage"),
    [
        (["/no/such/program"], "/", errno.ENOENT, "exec"),
        (["{folder}/plain"], "/", errno.EACCES, "exec"),
        ([SH], "/no/such/folder", errno.ENOENT, "cwd"),
    ],
)
def test_a_program_that_cannot_start_says_at_which_stage(
    machine: Machine, argv: list[str], cwd: str, number: int, stage: str
):
    box = machine.box()
    (machine.folder / "plain").write_text("not executable")
    command = [word.format(folder=machine.folder) for word in argv]
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        box.capsule.spawn(Program(command, {}, cwd))
    assert (caught.value.errno, caught.value.filename) == (number, stage)


def test_a_program_started_in_a_dead_capsule_is_an_error_and_no_hang(machine: Machine):
    box = machine.box()
    box.capsule.destroy()
    with pytest.raises(OSError, match=r".*"):
        box.capsule.spawn(Program([SH], {}, "/"))


def test_a_program_ended_with_its_capsule_reports_sigkill(machine: Machine):
    box = machine.box()
    running = box.capsule.spawn(Program(["/bin/sleep", "100"], {}, "/"))
    assert running.wait(0.05) is None
    box.capsule.destroy()
    assert running.wait(PATIENCE) == -signal.SIGKILL


def test_killing_a_program_ends_what_it_started_too(machine: Machine):
    box = machine.box()
    mark = uuid.uuid4().hex
    environment = {MARK: mark, "PATH": os.environ["PATH"]}
    running = box.capsule.spawn(Program([SH, "-c", "sleep 100 & exit 3"], environment, "/"))
    assert running.wait(PATIENCE) == 3
    assert len(marked(mark)) == 1
    running.kill()
    wait_until(lambda: marked(mark) == [])


@pytest.mark.parametrize(
    ("script", "code"), [("exit 7", 7), ("kill -TERM $$", -15), ("kill -KILL $$", -9), (":", 0)]
)
def test_a_program_ends_with_its_own_status(machine: Machine, script: str, code: int):
    assert machine.box().run([SH, "-c", script])[0] == code


LOOK = """
import json, os
fds = {}
for name in os.listdir("/proc/self/fd"):
    try: fds[name] = os.readlink("/proc/self/fd/" + name)
    except FileNotFoundError: pass
print(json.dumps({"fds": fds, "shm": os.listdir("/dev/shm"), "pid": os.getpid(),
                  "procs": [n for n in os.listdir("/proc") if n.isdigit()], "stub": os.listdir("/dev/shm/.ckptrun/bin"),
                  "ignored": open("/proc/self/status").read().split("SigIgn:")[1].split()[0],
                  "blocked": open("/proc/self/status").read().split("SigBlk:")[1].split()[0]}))
"""


def test_a_program_sees_its_own_world_and_nothing_of_ours(machine: Machine):
    leak = os.open("/etc/hostname", os.O_RDONLY)
    os.set_inheritable(leak, True)  # what a shell that started us may have left open
    _, text = machine.box().run([sys.executable, "-S", "-c", LOOK], last_pid=999)
    os.close(leak)
    seen = json.loads(text)
    assert set(seen["fds"]) <= {"0", "1", "2", "3"}  # 3: the listing itself
    assert seen["fds"]["0"] == "/dev/null"
    assert seen["shm"] == [".ckptrun"]
    assert seen["pid"] == 1000
    assert set(seen["procs"]) == {"1", "1000"}
    assert len(seen["stub"]) == 1
    assert int(seen["blocked"], 16) == 0
    assert int(seen["ignored"], 16) & ~(1 << 12 | 1 << 24) == 0  # Python itself ignores SIGPIPE and SIGXFSZ


def test_descriptors_arrive_at_the_numbers_asked_for_however_they_are_crossed(machine: Machine):
    files = {n: os.open(machine.folder / str(n), os.O_RDWR | os.O_CREAT) for n in range(3, 21)}
    code = "import os; print([os.path.basename(os.readlink(f'/proc/self/fd/{n}')) for n in range(3, 21)])"
    reader, writer = os.pipe()
    crossed = {number: files[23 - number] for number in files}
    box = machine.box()
    running = box.capsule.spawn(
        Program([sys.executable, "-c", code], {}, "/", {1: writer, 2: writer} | crossed)
    )
    os.close(writer)
    with os.fdopen(reader) as file:
        assert file.read().strip() == str([str(23 - number) for number in files])
    assert running.wait(PATIENCE) == 0
    for fd in files.values():
        os.close(fd)


URING = (
    "import ctypes; c = ctypes.CDLL(None, use_errno=True); print(c.syscall(425, 8, None), ctypes.get_errno())"
)


def test_io_uring_is_answered_enosys_when_denied_and_reaches_the_kernel_when_not(machine: Machine):
    box = machine.box()
    _, denied = box.run([sys.executable, "-c", URING], deny_io_uring=True)
    _, allowed = box.run([sys.executable, "-c", URING])
    assert denied.split() == ["-1", str(errno.ENOSYS)]
    assert allowed.split()[1] != str(errno.ENOSYS)


WHO = """
import os
caps = {l.split()[0]: l.split()[1] for l in open("/proc/self/status") if l.startswith("Cap")}
print(os.getuid(), os.getgid(), os.getgroups(), int(caps["CapEff:"], 16) > 0, oct(os.umask(0)))
"""


def test_a_program_runs_as_whom_it_is_told_with_or_without_capabilities(machine: Machine):
    box = machine.box()
    plain, keeping = Identity(4321, 4322, (4323,)), Identity(4321, 4322, (4323,), keep_capabilities=True)
    assert box.run([PYTHON, "-c", WHO], identity=plain, umask=0o27)[1].split("\n")[0] == (
        "4321 4322 [4323] False 0o27"
    )
    assert box.run([PYTHON, "-c", WHO], identity=keeping)[1].startswith("4321 4322 [4323] True")


def test_job_pids_are_the_root_and_all_below_it_root_first(machine: Machine):
    job = machine.job([SH, "-c", "sleep 100 & sleep 100 & wait"])
    job.capsule.spawn(Program(["/bin/sleep", "100"], {}, "/", pid=job.capsule.next_helper_pid()))
    wait_until(lambda: len(job.capsule.job_pids()) == 4)
    assert job.capsule.job_pids()[0] == job.capsule.host_pid(1000)
    assert len(job.capsule.host_pids()) == 5


SUPERVISOR = """
import os, sys, time
sys.path[:0] = {paths!r}
from live import Machine
job = Machine().job(["/bin/sh", "-c", "(setsid sleep 100 &) ; nohup sleep 100 & sleep 100"])
print("up", flush=True)
time.sleep(100)
"""


def test_no_process_survives_the_supervisors_sigkill(scratch: Path):
    mark = uuid.uuid4().hex
    code = SUPERVISOR.format(paths=[str(path) for path in (TESTS.parent, TESTS, TESTS / "capsule")])
    environment = os.environ | {MARK: mark, "TMPDIR": str(scratch)}
    supervisor = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
    assert supervisor.stdout
    assert supervisor.stdout.readline() == b"up\n"
    wait_until(lambda: len(marked(mark)) >= 6, what="supervisor, init, root, sh, 3 sleeps")
    supervisor.kill()
    supervisor.wait()
    supervisor.stdout.close()
    wait_until(lambda: marked(mark) == [])


def test_capsules_leak_neither_descriptors_nor_threads_nor_zombies(machine: Machine):
    def held() -> tuple[int, int, int]:
        return descriptors(), threading.active_count(), len(psutil.Process().children())

    machine.box().capsule.destroy()
    before = held()
    for _ in range(10):
        box = machine.box()
        box.run([SH, "-c", "exit 1"])
        box.capsule.destroy()
    wait_until(
        lambda: all(now <= then for now, then in zip(held(), before, strict=True))
    )  # others may end too


def test_a_carried_helper_lies_where_its_hash_says(tmp_path: Path):
    from ckptrun.capsule.helper import carried  # noqa: PLC0415

    data = find().path.read_bytes()
    helper = carried(data, tmp_path / "helpers")
    assert helper == Helper(tmp_path / "helpers" / f"stub-{find().digest}", find().digest)
    assert helper.path.read_bytes() == data
    assert carried(data, tmp_path / "helpers") == helper
