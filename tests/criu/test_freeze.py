"""Dumps that go wrong: whatever happens, the job runs on unharmed, nothing is left behind, and the reason is told."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from live import COUNTER, MARK, PATIENCE, Job, descriptors, marked, wait_until

from ckptrun.criu import dumping, engine
from ckptrun.criu.capture import Capture
from ckptrun.errors import DumpError

if TYPE_CHECKING:
    import select
    from collections.abc import Mapping, Sequence

    from live import Machine

    from ckptrun.capsule.running import Running
    from ckptrun.criu.staging import Extents, Slot

BIG = "import os; x = bytearray(os.urandom(1 << 20)) * 60\n" + COUNTER


TESTS = Path(__file__).parents[1]
LET_GO = 10.0
"""Seconds, half of what a freeze may take: a job that was let go does not stand so long, on a busy machine either."""


def counting(machine: Machine, code: str = COUNTER) -> Job:
    job = machine.job(code)
    job.out.find("tick 3")
    return job


def longest_pause(job: Job) -> float:
    clocks = [clock for _, clock in job.out.ticks()]
    return max(b - a for a, b in itertools.pairwise(clocks))


def unharmed(job: Job, slot: Slot) -> None:
    """Check that the job counts on where it was, that nothing foreign is in it, and that it can be dumped again."""
    job.out.goes_on()
    numbers = [number for number, _ in job.out.ticks()]
    assert numbers == list(range(1, len(numbers) + 1))
    wait_until(
        lambda: len(job.capsule.host_pids()) == len(job.capsule.job_pids()), what="CRIU's processes are gone"
    )
    for pid in job.capsule.job_pids():
        status = Path(f"/proc/{pid}/status").read_text()
        assert "TracerPid:\t0\n" in status
        assert psutil.Process(pid).status() != psutil.STATUS_STOPPED
    result = job.dump(slot)
    assert "inventory.img" in result.images
    job.out.goes_on()


def strike(job: Job, criu: Running, number: int) -> None:
    """Signal CRIU alone, as an OOM killer would: its children are left."""
    job.capsule.kill(criu.pid, number)


def failure(job: Job, slot: Slot, **options: object) -> str:
    with pytest.raises(DumpError) as caught:
        job.dump(slot, **options)  # type: ignore[arg-type]
    return str(caught.value)


def test_the_job_runs_on_after_a_dump_and_the_freeze_is_the_pause_it_saw(machine: Machine):
    job, slot = counting(machine), machine.slot()
    seen: list[int] = []
    result = job.dump(slot, lambda images: seen.append(len(images)))
    job.out.goes_on()
    assert seen == [len(result.images)]
    assert 0 < result.frozen_seconds <= longest_pause(job) + 0.005
    unharmed(job, slot)


def test_a_reader_that_dies_while_the_job_is_frozen(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    job, slot = counting(machine, BIG), machine.slot()
    drained = 0

    def dying(capture: Capture, fd: int) -> bool:
        nonlocal drained
        drained += 1
        if drained == 25:
            raise MemoryError("injected")
        return whole(capture, fd)

    whole = Capture._drain
    with monkeypatch.context() as patched:
        patched.setattr(Capture, "_drain", dying)
        assert "injected" in failure(job, slot)
    assert longest_pause(job) < LET_GO
    unharmed(job, slot)


def test_staging_that_is_too_small(machine: Machine):
    job, slot = counting(machine, BIG), machine.slot()
    slot.capacity, capacity = 20 << 20, slot.capacity
    assert "larger than staging (20 MiB)" in failure(job, slot)
    slot.capacity = capacity
    unharmed(job, slot)


def test_a_callback_that_raises(machine: Machine):
    job, slot = counting(machine), machine.slot()

    def raising(_: Mapping[str, Extents]) -> None:
        raise OSError(28, "No space left on device")

    assert "No space left on device" in failure(job, slot, frozen=raising)
    unharmed(job, slot)


def test_a_callback_that_takes_too_long_is_not_waited_for_by_the_job(machine: Machine):
    job, slot = counting(machine), machine.slot()
    stood: list[float] = []

    def slow(_: Mapping[str, Extents]) -> None:
        frozen = time.monotonic()  # a fresh capsule has the same clock
        wait_until(lambda: job.out.ticks()[-1][1] > frozen, what="the job runs while the callback is at work")
        stood.append(longest_pause(job))

    assert "for more than 0.4 s" in failure(job, slot, frozen=slow, max_freeze=0.4)
    (pause,) = stood
    assert pause < LET_GO
    unharmed(job, slot)


def test_a_deadline_no_dump_can_meet(machine: Machine):
    job, slot = counting(machine, BIG), machine.slot()
    assert "for more than 0.001 s" in failure(job, slot, max_freeze=0.001)
    unharmed(job, slot)


@pytest.mark.slow
def test_a_held_job_stays_stopped_until_it_is_let_go_or_the_hold_is_over(machine: Machine):
    job, slot = counting(machine), machine.slot()
    job.dump(slot, lambda _: time.sleep(2.5), max_freeze=2.0, hold=20.0)
    job.out.goes_on()
    assert longest_pause(job) > 2.5
    assert "was given up" in failure(job, slot, frozen=lambda _: time.sleep(3.5), max_freeze=2.0, hold=0.2)
    unharmed(job, slot)


def test_a_held_job_can_be_ended_while_it_is_stopped(machine: Machine):
    job, slot = counting(machine), machine.slot()
    assert failure(job, slot, frozen=lambda _: job.capsule.destroy(), hold=10.0)
    assert job.gone.is_set()
    assert job.capsule.job_pids() == []


def kill_criu(job: Job, slot: Slot, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Dump, and kill CRIU when it starts, when it announces an image, or when it asks for leave to thaw.

    The pages of the second task do not fit into their pipe: CRIU waits there until the capture reads on.
    """
    criu: list[Running] = []

    def kill() -> None:
        strike(job, criu[0], signal.SIGKILL)
        criu[0].wait(PATIENCE)

    plain = job.spawn_criu()

    def spawn(argv: Sequence[str], env: Mapping[str, str], fds: Mapping[int, int]) -> Running:
        criu.append(plain(argv, env, fds))  # type: ignore[arg-type]
        if moment == "start":
            kill()
        return criu[0]

    def announce(capture: Capture, poll: object) -> bool:
        more = whole(capture, poll)  # type: ignore[arg-type]
        name = next(reversed(capture.images), "")
        if name.startswith(moment):
            kill()
        return more

    def frozen(_: Mapping[str, Extents]) -> None:
        if moment == "post-dump":
            kill()

    whole = Capture._announce
    with monkeypatch.context() as patched:
        patched.setattr(Capture, "_announce", announce)
        assert "killed by signal 9" in failure(job, slot, spawn=spawn, frozen=frozen)


@pytest.mark.parametrize("moment", ["start", "pages-2", "inventory", "post-dump"])
def test_criu_killed(machine: Machine, monkeypatch: pytest.MonkeyPatch, moment: str):
    job, slot = counting(machine, BIG), machine.slot()
    kill_criu(job, slot, monkeypatch, moment)
    assert longest_pause(job) < LET_GO
    unharmed(job, slot)


def test_criu_killed_as_it_enters_a_task_never_leaves_the_job_stopped(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
):
    """There are some milliseconds in which a task runs CRIU's code without CRIU to catch it: it may die of SIGTRAP."""
    job, slot = counting(machine, BIG), machine.slot()
    kill_criu(job, slot, monkeypatch, "core")
    before = len(job.out.all)
    wait_until(lambda: len(job.out.all) > before + 1 or 1000 in job.exits)
    if 1000 in job.exits:
        assert job.exit_of(1000) == -signal.SIGTRAP
    else:
        unharmed(job, slot)


def test_a_criu_that_hangs_is_killed_and_the_job_runs_on(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    job, slot = counting(machine), machine.slot()
    monkeypatch.setattr(engine, "END_SECONDS", 0.5)
    plain = job.spawn_criu()
    criu: list[Running] = []

    def spawn(argv: Sequence[str], env: Mapping[str, str], fds: Mapping[int, int]) -> Running:
        criu.append(plain(argv, env, fds))  # type: ignore[arg-type]
        return criu[0]

    def stuck(_: Mapping[str, Extents]) -> None:
        strike(job, criu[0], signal.SIGSTOP)
        time.sleep(1.0)

    assert "for more than 0.5 s" in failure(job, slot, spawn=spawn, frozen=stuck, max_freeze=0.5)
    assert longest_pause(job) < LET_GO
    unharmed(job, slot)


def test_a_criu_that_does_not_start(machine: Machine):
    job, slot = counting(machine), machine.slot()

    def spawn(*_: object) -> Running:
        raise OSError(2, "No such file or directory", "exec")

    assert "CRIU could not be started" in failure(job, slot, spawn=spawn)
    unharmed(job, slot)


def test_what_criu_refuses_is_told_with_a_remedy(machine: Machine):
    path = machine.folder / "outside.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)
    code = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({str(path)!r})\n" + COUNTER
    job, slot = counting(machine, code), machine.slot()
    connection, _ = listener.accept()
    message = failure(job, slot)
    assert "a Unix socket connected to a process outside" in message
    assert "close that connection" in message
    connection.close()
    listener.close()
    job.out.goes_on()


RING = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
params = ctypes.create_string_buffer(120)
print("ring", libc.syscall(425, 8, params), flush=True)
"""


def test_a_ring_cannot_be_dumped_where_the_user_allowed_it_and_is_not_made_where_not(machine: Machine):
    denied = machine.job(RING + COUNTER)
    denied.out.find("ring -1")
    denied.dump(machine.slot())
    allowed = machine.job(RING + COUNTER, deny_io_uring=False)
    if "-1" in allowed.out.find("ring .*")[0]:
        pytest.skip("this kernel has no io_uring")
    assert "io_uring" in failure(allowed, machine.slot())
    allowed.out.goes_on()


def test_a_job_that_has_ended_cannot_be_dumped_and_it_is_said(machine: Machine):
    job = machine.job(["/bin/sh", "-c", "exit 0"])
    job.exit_of(1000)
    assert "the job ended before it could be stopped" in failure(job, machine.slot())


def test_twenty_cycles_leak_neither_descriptors_nor_threads(machine: Machine):
    job, slot = counting(machine), machine.slot()

    def held() -> tuple[int, int]:
        return descriptors(), threading.active_count()

    def inits() -> int:
        return sum(1 for _ in Path(f"/proc/{job.capsule.init_pid}/fd").iterdir())

    job.dump(slot)
    before = held(), inits()
    for n in range(20):
        if n % 4:
            job.dump(slot)
        else:
            failure(job, slot, frozen=lambda _: (_ for _ in ()).throw(OSError("no")))
    wait_until(lambda: (held(), inits()) == before)


FROZEN = """
import sys, time
sys.path[:0] = {paths!r}
from live import COUNTER, Machine
machine = Machine()
job = machine.job(COUNTER)
job.out.find("tick 3")
def frozen(images):
    print("frozen", flush=True)
    time.sleep(100)
job.dump(machine.slot(), frozen, max_freeze=100)
"""


def test_a_supervisor_killed_while_the_job_is_frozen_leaves_nothing(scratch: Path):
    mark = uuid.uuid4().hex
    code = FROZEN.format(paths=[str(path) for path in (TESTS.parent, TESTS, TESTS / "capsule")])
    environment = os.environ | {MARK: mark, "TMPDIR": str(scratch)}
    supervisor = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
    assert supervisor.stdout
    assert supervisor.stdout.readline() == b"frozen\n"
    supervisor.kill()
    supervisor.wait()
    supervisor.stdout.close()
    wait_until(lambda: marked(mark) == [])


TORN = """
import ctypes
PAGES = 16384
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
stack = next(int(line.split("-")[0], 16) for line in open("/proc/self/maps") if "[stack]" in line)
wanted = (stack >> 30) - 4 << 30  # above everything but the stack: CRIU sends it last, through the last pipeful
address = libc.mmap(wanted, PAGES << 12, 3, 0x22, -1, 0)
assert address == wanted
area = (ctypes.c_char * (PAGES << 12)).from_address(address)
first_words = memoryview(area).cast("B").cast("Q")[::512]
n = 0x5EED << 32
while True:
    n += 1
    for page in range(PAGES):
        first_words[page] = n
    if not n % 8: print("pass", n - (0x5EED << 32), flush=True)
"""
"""One pass writes the same number into every page in ascending order: at any instant the pages hold at most two
neighbouring numbers, the larger ones first."""


def numbers(images: Mapping[str, Extents]) -> list[int]:
    """Return the number in every page that carries one, in address order."""
    largest = max((e for name, e in images.items() if name.startswith("pages-")), key=lambda e: e.size)
    words = memoryview(bytes(largest.read(0, largest.size))).cast("Q")[::512]
    return [word & 0xFFFFFFFF for word in words if word >> 32 == 0x5EED]


def consistent(images: Mapping[str, Extents]) -> bool:
    found = numbers(images)
    return found == sorted(found, reverse=True) and max(found) - min(found) <= 1


@pytest.mark.slow
def test_every_image_is_one_instant(machine: Machine):
    job, slot = machine.job(TORN), machine.slot(128 << 20)
    job.out.find("pass")
    for _ in range(6):
        images = job.dump(slot).images
        assert len(numbers(images)) >= 16384
        assert consistent(images)


@pytest.mark.slow
def test_an_image_thawed_before_it_is_read_would_be_torn(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    """Prove that the test above can fail: without the wait, and with a slow reader, it does."""
    job, slot = machine.job(TORN), machine.slot(128 << 20)
    capacity = slot.capacity
    job.out.find("pass")

    def no_wait(_capture: Capture, _timeout: float) -> bool:
        return True

    def little_by_little(capture: Capture, fd: int) -> bool:
        slot.capacity = capacity if slot.used < 60 << 20 else slot.used + (64 << 10)
        time.sleep(0.001)
        return whole(capture, fd)

    def to_the_end(capture: Capture, poll: select.poll) -> bool:
        if announce(capture, poll):
            return True
        poll.unregister(capture._socket)  # CRIU has closed it; there is more in the pipes
        return True

    def wait_for_dump(*arguments: object) -> int | None:
        code = plain_wait(*arguments)  # type: ignore[arg-type]
        captures[-1]._settled.wait(10)
        return code

    def start(capture: Capture) -> None:
        captures.append(capture)
        begin(capture)

    captures: list[Capture] = []
    whole, announce, begin = Capture._drain, Capture._announce, Capture.start
    plain_wait = dumping._wait_for_dump
    monkeypatch.setattr(Capture, "wait", no_wait)
    monkeypatch.setattr(Capture, "_drain", little_by_little)
    monkeypatch.setattr(Capture, "start", start)
    monkeypatch.setattr(Capture, "_announce", to_the_end)
    monkeypatch.setattr(dumping, "_wait_for_dump", wait_for_dump)
    assert not all(consistent(job.dump(slot).images) for _ in range(8))
