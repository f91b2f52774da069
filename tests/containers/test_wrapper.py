"""Wrapper mode: ckptrun is the container's entry point, with nine capabilities, and its job has none."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from podman import Security
from wrapping import CAPABILITIES, JOBS, UID, Wrapped, below, count, kill, security, status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from podman import Container, Podman

pytestmark = pytest.mark.slow

STEPS = 120
COUNT = ("python3", JOBS / "count.py", "--steps", str(STEPS))
NO_CAPABILITY = "0000000000000000"


@pytest.fixture
def wrapped(podman: Podman, ckptrun_image: str, tmp_path: Path) -> Iterator[Wrapped]:
    made = Wrapped(podman, ckptrun_image, tmp_path)
    made.hold()
    yield made
    made.close()


def expect_restricted(wrapped: Wrapped, container: Container) -> None:
    found = status(wrapped.job(container).pid)
    assert found["Uid"].split() == [str(UID)] * 4
    sets = {name: found[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    assert sets == dict.fromkeys(sets, NO_CAPABILITY)
    assert found["NoNewPrivs"] == "1"


def expect_exact(wrapped: Wrapped, container: Container) -> None:
    """The job is let go, and everything is as in a run that nobody disturbed."""
    wrapped.release()
    assert container.wait() == 0, container.story()
    assert container.out.splitlines()[-1:] == [count.result(STEPS)], container.story()
    assert wrapped.lines() == count.lines(STEPS)


def started(wrapped: Wrapped) -> Container:
    """Start a job, let it take some steps, take a checkpoint, let it take more."""
    container = wrapped.start(*COUNT)
    container.until("steps", lambda: len(wrapped.lines()) >= 20)
    wrapped.checkpoint(container)
    at = len(wrapped.lines())
    container.until("more steps", lambda: len(wrapped.lines()) >= min(at + 20, STEPS - 1))
    return container


def test_a_killed_job_is_restored_in_place(wrapped: Wrapped):
    container = started(wrapped)
    expect_restricted(wrapped, container)
    wrapped.restored_after(container, lambda: kill(wrapped.job(container)))
    expect_restricted(wrapped, container)
    assert (wrapped.work / "log.txt").stat().st_uid == UID
    expect_exact(wrapped, container)


def test_a_stopped_container_ends_with_75_and_the_next_one_goes_on(wrapped: Wrapped):
    container = started(wrapped)
    container.kill(signal.SIGTERM)
    assert container.wait() == 75, container.story()
    container.rm()
    wrapped.lose_node()
    again = wrapped.start(*COUNT)
    wrapped.event(again, "job-restored")
    expect_restricted(wrapped, again)
    expect_exact(wrapped, again)


def test_a_container_that_is_gone_without_a_warning_is_continued_by_the_next(wrapped: Wrapped):
    container = started(wrapped)
    container.rm()
    wrapped.lose_node()
    again = wrapped.start(*COUNT, options=("--take-over",))
    wrapped.event(again, "job-restored")
    expect_restricted(wrapped, again)
    expect_exact(wrapped, again)


MANY_THINGS = """
import mmap, os, socket, tempfile, time
from multiprocessing import shared_memory
temporary = tempfile.TemporaryFile()
temporary.write(b"x" * 100), temporary.flush()
with open("/dev/shm/deleted", "w+b") as file:
    file.truncate(4096)
    mapped = mmap.mmap(file.fileno(), 4096)
os.unlink("/dev/shm/deleted")
shared = shared_memory.SharedMemory(create=True, size=4096)
named = tempfile.NamedTemporaryFile()
listening = socket.socket(socket.AF_UNIX)
listening.bind(os.environ["TMPDIR"] + "/socket")
listening.listen()
print("ready", flush=True)
step = 0
while os.path.exists("hold"):
    step += 1
    shared.buf[0] = mapped[0] = step % 256
    time.sleep(0.02)
temporary.seek(0)
assert temporary.read() == b"x" * 100
assert shared.buf[0] == mapped[0] == step % 256
assert {os.fstat(file.fileno()).st_uid for file in (temporary, named)} == {os.getuid()}
with open(named.name, "a") as file:
    file.write("still mine")
with socket.socket(socket.AF_UNIX) as calling:
    calling.connect(os.environ["TMPDIR"] + "/socket")
shared.unlink()
print("fine")
"""
CLOSING = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(JOBS)!r})
import count
value = ""
for step in range(1, {STEPS} + 1):
    value = count.link(value, step)
    with open("log.txt", "a") as log:
        print(step, value, file=log)
    Path(f"parts-{{step % 7}}").write_text(value)
    while step == {STEPS} and Path("hold").exists():
        time.sleep(0.01)
    time.sleep(0.02)
print(f"result {STEPS} {{value}}")
"""


def test_files_that_were_written_and_closed_come_back_where_handles_may_be_opened(wrapped: Wrapped):
    container = wrapped.start("python3", "-c", CLOSING, how=security(more=("DAC_READ_SEARCH",)))
    container.until("steps", lambda: len(wrapped.lines()) >= 20)
    wrapped.checkpoint(container)
    at = len(wrapped.lines())
    container.until("more steps", lambda: len(wrapped.lines()) >= at + 5)
    wrapped.restored_after(container, lambda: kill(wrapped.job(container)))
    expect_exact(wrapped, container)
    assert "cannot be" not in container.err
    assert {path.stat().st_uid for path in wrapped.work.glob("parts-*")} == {UID}


LOOKING = """
import os, pathlib
def tried(work):
    try:
        return work()
    except OSError as error:
        return error.strerror
print([tried(lambda: len(pathlib.Path("/proc", name).read_bytes())) for name in ("keys", "timer_list")])
print(tried(lambda: pathlib.Path("/proc/sys/kernel/hostname").write_text("x")), tried(lambda: os.listdir("/proc/acpi")))
print(os.path.exists("/proc/1/root"), len([name for name in os.listdir("/proc") if name.isdecimal()]))
shm = os.statvfs("/dev/shm")
print(shm.f_blocks * shm.f_frsize >> 20, os.path.exists("/dev/ptmx"))
"""


def test_the_job_sees_what_its_container_shows_and_no_more(wrapped: Wrapped):
    """The capsule's fresh /proc has the container's masks on it, its /dev/shm the container's limit."""
    flags = ("--shm-size=7m",)
    plain = wrapped.podman.run_container(
        wrapped.image, "-c", LOOKING, entrypoint="python3", security=security(), flags=flags
    )
    wrapped.containers.append(plain)
    assert plain.wait() == 0, plain.story()
    inside = wrapped.start("python3", "-c", LOOKING, flags=flags)
    assert inside.wait() == 0, inside.story()
    expected, seen = plain.out.splitlines(), inside.out.splitlines()
    assert seen[0] == expected[0]
    assert "0" in seen[0]  # an empty file, where the machine's has something to read
    assert seen[1] == expected[1]
    assert seen[1].startswith("Read-only file system ")
    assert seen[3] == expected[3] == "7 True"


GREEDY = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(JOBS)!r})
import count
value, log = "", open("log.txt", "a")
for step in range(1, {STEPS} + 1):
    value = count.link(value, step)
    print(step, value, file=log, flush=True)
    while step >= 40 and Path("hold").exists():
        time.sleep(0.01)
    if step == 80 and Path("greed").exists():
        Path("greed").unlink()
        hog = [bytearray(b"x" * (20 << 20)) for _ in range(40)]
    time.sleep(0.01)
print(f"result {STEPS} {{value}}")
"""
LIMIT = 400 << 20


def test_a_job_that_runs_into_the_containers_memory_limit_is_restored(wrapped: Wrapped):
    (wrapped.work / "greed").touch()
    container = wrapped.start(
        "python3", "-c", GREEDY, how=security(memory=LIMIT), options=("--staging", "32M")
    )
    container.until("steps", lambda: len(wrapped.lines()) >= 40)
    wrapped.checkpoint(container)
    wrapped.release()
    ended = wrapped.event(container, "job-ended")
    assert (ended["signal"], ended["oom"]) == (9, True), container.story()
    assert container.wait() == 0, container.story()
    assert container.out.splitlines()[-1:] == [count.result(STEPS)]
    assert wrapped.lines() == count.lines(STEPS)


@pytest.mark.parametrize("namespace", ["host", "private"])
def test_staging_is_sized_by_the_containers_own_limit(wrapped: Wrapped, namespace: str):
    container = wrapped.ckptrun(
        "doctor", "--json", how=security(memory=LIMIT), flags=(f"--cgroupns={namespace}",)
    )
    assert container.wait() == 0, container.story()
    (memory,) = (check for check in json.loads(container.out)["checks"] if check["name"] == "memory")
    assert memory["detail"].split()[0] in {"0.2", "0.3", "0.4"}, memory  # GiB; the machine has many


def test_what_the_job_has_is_its_own_after_a_restore(wrapped: Wrapped):
    """Root without CHOWN and FOWNER cannot give files to anybody, nor change others'."""
    container = wrapped.start("python3", "-c", MANY_THINGS)
    container.prints("ready")
    wrapped.checkpoint(container)
    wrapped.restored_after(container, lambda: kill(wrapped.job(container)))
    wrapped.restored_after(container, lambda: container.kill(signal.SIGUSR2))
    wrapped.release()
    assert container.wait() == 0, container.story()
    assert container.out.endswith("fine\n")
    assert "cannot be set back" not in container.err


def test_each_missing_capability_is_named_at_the_start(wrapped: Wrapped):
    container = wrapped.start(*COUNT)
    ckptrun = f"ckptrun --name other --store file:///store --user {UID} -- true"
    loop = f"for c in {' '.join(CAPABILITIES)}; do setpriv --bounding-set -$c {ckptrun}; echo $c $?; done"
    done = container.exec("sh", "-c", loop.replace("-$c ", "-$(echo $c | tr A-Z a-z) "))
    assert done.out.splitlines() == [f"{name} 77" for name in CAPABILITIES]
    for name in CAPABILITIES:
        assert f"root lacks {name} here" in done.err
        assert f"securityContext.capabilities.add: [{name}]" in done.err
    expect_exact(wrapped, container)


def test_what_is_missing_is_said_all_at_once_by_a_run_and_by_the_doctor(wrapped: Wrapped):
    """A container that somebody has forgotten to give anything: the engine's filter, and no capability."""
    bare = Security(caps=(), read_only=True)
    container = wrapped.start(*COUNT, how=bare)
    assert container.wait() == 77
    named = container.err.partition("securityContext.capabilities.add: [")[2].partition("]")[0]
    assert sorted(named.split(", ")) == sorted(CAPABILITIES)
    assert "seccompProfile.type: Unconfined" in container.err
    doctor = wrapped.ckptrun("doctor", "--json", how=bare)
    assert doctor.wait() == 69
    checks = {check["name"]: check for check in json.loads(doctor.out)["checks"]}
    assert not checks["capabilities"]["ok"]
    assert "securityContext.capabilities.add: [" in checks["capabilities"]["remedy"]
    assert not checks["seccomp"]["ok"]
    assert "seccompProfile.type: Unconfined" in checks["seccomp"]["remedy"]


def test_a_filter_alone_is_named(wrapped: Wrapped):
    container = wrapped.start(*COUNT, how=security(seccomp="default"))
    assert container.wait() == 77
    assert "a seccomp filter is on ckptrun" in container.err
    assert "securityContext.seccompProfile.type: Unconfined" in container.err


def test_the_doctor_finds_nothing_wrong_with_a_container_that_has_what_is_needed(wrapped: Wrapped):
    container = wrapped.ckptrun(
        "doctor", workdir=Path("/")
    )  # where nothing can be written, as in /tmp and /run
    assert container.wait() == 0, container.story()


def test_zombies_of_a_shell_in_the_container_are_reaped(wrapped: Wrapped):
    container = started(wrapped)
    container.exec("sh", "-c", "for i in 1 2 3 4 5; do (setsid true &); done")

    def no_zombie() -> bool:
        states = [status(one.pid).get("State", "") for one in below(container)]
        return len(states) > 1 and not any(state.startswith("Z") for state in states)

    container.until("no zombie", no_zombie)
    expect_exact(wrapped, container)
