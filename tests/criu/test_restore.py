"""Restores into new capsules: whole trees, again and again, and images that are not what they were."""

from __future__ import annotations

import importlib
import os
import signal
import threading
from typing import TYPE_CHECKING

import psutil
import pytest
from live import COUNTER, Job, descriptors, reader, wait_until

from ckptrun.core.model import BytesSource
from ckptrun.criu import provision, pycriu_import, restoring
from ckptrun.errors import RestoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from live import Machine

    from ckptrun.core.model import Source


def kept(images: Mapping[str, Source]) -> dict[str, Source]:
    return {name: BytesSource(b"".join(bytes(p) for p in source.pieces())) for name, source in images.items()}


def dumped(machine: Machine, code: str = COUNTER) -> tuple[Job, dict[str, Source]]:
    job = machine.job(code)
    job.out.find("tick 3")
    images = kept(job.dump(machine.slot()).images)
    job.out.goes_on()
    job.capsule.destroy()
    return job, images


def restored(machine: Machine, was: Job, images: Mapping[str, Source]) -> Job:
    job = machine.job()
    job.restore(images, was)
    return job


FORKING = """
import os, subprocess, threading, time
threading.Thread(target=time.sleep, args=(10**6,), daemon=True).start()
n = 0
while True:
    n += 1
    pid = subprocess.Popen(["/bin/true"])
    pid.wait()
    print("tick", n, time.monotonic(), flush=True)
    print("child", pid.pid, flush=True)
    time.sleep(0.02)
"""


def test_a_job_counts_on_exactly_through_three_restores_while_it_forks(machine: Machine):
    job = machine.job(FORKING)
    job.out.find("tick 3")
    slot = machine.slot()
    for _ in range(3):
        last_ticks: list[tuple[int, float]] = []

        def frozen(_: object, job: Job = job, last_ticks: list[tuple[int, float]] = last_ticks) -> None:
            job.out.settled()
            last_ticks.append(job.out.ticks()[-1])

        images = kept(job.dump(slot, frozen).images)
        last = reader().last_pid(images)
        job.out.goes_on()
        job.capsule.destroy()
        before = job
        job = restored(machine, before, images)
        job.out.goes_on()
        number, clock = job.out.ticks()[0]
        old_number, old_clock = last_ticks[0]
        assert number == old_number + 1
        assert old_clock - 0.01 <= clock < old_clock + 10, "the job's clock goes on, without the pause"
        children = job.out.children(2)
        assert children[1] > last, "the first may be the one that lived at the dump"
    assert len(job.capsule.job_pids()) >= 2


DAEMON = """
import os, sys, time
if os.fork() == 0:
    SETSID
    if os.fork() == 0:
        while True: time.sleep(0.1)
    os._exit(0)
os.wait()
def orphan():
    if os.fork() == 0:
        if os.fork() == 0:
            time.sleep(1000)
        os._exit(0)
    os.wait()
n = 0
while True:
    n += 1
    if n == 40: orphan()
    print("tick", n, time.monotonic(), flush=True)
    time.sleep(0.02)
"""


def test_the_tree_is_whole_and_the_root_is_still_its_subreaper(machine: Machine):
    was, images = dumped(machine, DAEMON.replace("SETSID", ""))
    job = restored(machine, was, images)
    job.out.find("tick 45")
    root = psutil.Process(job.capsule.job_pids()[0])
    assert len(root.children()) == 3, "the job, the helper, and an orphan made after the restore"
    assert job.capsule.strays() == []


def test_a_daemon_whose_session_leader_has_ended_is_restored_inside_the_tree_again_and_again(
    machine: Machine,
):
    job, images = dumped(machine, DAEMON.replace("SETSID", "os.setsid()"))
    for _ in range(3):
        job = restored(machine, job, images)
        job.out.goes_on()
        assert job.capsule.strays() == []
        assert len(job.capsule.job_pids()) >= 3
        images = kept(job.dump(machine.slot()).images)
        job.out.goes_on()
        job.capsule.destroy()


def test_a_daemon_that_a_restore_puts_outside_the_tree_is_named(machine: Machine):
    was, images = dumped(machine, DAEMON.replace("SETSID", "os.setsid()"))
    job = machine.job()
    writer = job._output()
    request = restoring.RestoreRequest(
        reader().for_restore(images), reader().last_pid(images), {was.pipe: writer}
    )
    restoring.restore(job.place(), request, job.spawn_criu(), 60.0)
    os.close(writer)
    job.out.goes_on()
    assert job.capsule.strays() == [1003], (
        "with no adopter it becomes init's child, and no dump would hold it"
    )


def test_a_restored_job_ends_with_its_own_status_and_takes_signals(machine: Machine):
    code = "import signal, sys\nsignal.signal(signal.SIGUSR1, lambda *a: sys.exit(23))\n" + COUNTER
    was, images = dumped(machine, code)
    job = restored(machine, was, images)
    job.out.goes_on()
    job.signal(signal.SIGUSR1)
    assert job.exit_of(1000) == 23
    job = restored(machine, was, images)
    job.out.goes_on()
    job.signal(signal.SIGKILL)
    assert job.exit_of(1000) == -9


def test_a_restore_leaks_neither_descriptors_nor_threads(machine: Machine):
    was, images = dumped(machine)

    def held() -> tuple[int, int, int]:
        return descriptors(), threading.active_count(), len(psutil.Process().children())

    def cycle() -> None:
        job = restored(machine, was, images)
        job.out.goes_on()
        job.capsule.destroy()
        wait_until(job.out.ended.is_set)

    before = held()
    for _ in range(5):
        cycle()
        wait_until(lambda: held() == before)


def short(images: Mapping[str, Source], prefix: str) -> dict[str, Source]:
    result = dict(images)
    name = max((name for name in images if name.startswith(prefix)), key=lambda name: images[name].size)
    content = bytes(images[name].read(0, images[name].size))
    result[name] = BytesSource(content[: len(content) // 2 // 4096 * 4096 or len(content) // 2])
    return result


@pytest.mark.parametrize("prefix", ["pages-", "core-", "inventory", "pstree", "files", "mm-", "pagemap-"])
def test_a_truncated_image_is_a_restore_error_and_leaves_nothing_running(machine: Machine, prefix: str):
    was, images = dumped(machine)
    job = machine.job()
    bad = short(images, prefix)
    writer = job._output()
    request = restoring.RestoreRequest(bad, 2000, {was.pipe: writer})
    with pytest.raises(RestoreError):
        restoring.restore(job.place(), request, job.spawn_criu(), 20.0)
    os.close(writer)
    job.capsule.destroy()
    assert job.capsule.host_pids() == []


def test_a_missing_image_is_a_restore_error(machine: Machine):
    was, images = dumped(machine)
    job = machine.job()
    del images["files.img"]
    with pytest.raises(RestoreError):
        job.restore(images, was)


def test_a_source_that_fails_half_way_is_the_reason_given(machine: Machine):
    class Failing(BytesSource):
        def pieces(self) -> Iterator[memoryview]:
            yield memoryview(self.data)[: len(self.data) // 2]
            raise OSError("chunk 7 does not authenticate")

    was, images = dumped(machine)
    name = max((name for name in images if name.startswith("pages-")), key=lambda name: images[name].size)
    images[name] = Failing(bytes(images[name].read(0, images[name].size)))
    with pytest.raises(RestoreError, match="chunk 7 does not authenticate"):
        machine.job().restore(images, was)


@pytest.mark.slow
def test_a_source_that_never_answers_is_given_up_after_the_timeout(machine: Machine):
    class Silent(BytesSource):
        def pieces(self) -> Iterator[memoryview]:
            yield memoryview(self.data)[:4096]
            released.wait(5.0)

    released = threading.Event()
    was, images = dumped(machine)
    name = max((name for name in images if name.startswith("pages-")), key=lambda name: images[name].size)
    images[name] = Silent(bytes(images[name].read(0, images[name].size)))
    job = machine.job()
    writer = job._output()
    threading.Timer(2.0, released.set).start()
    request = restoring.RestoreRequest(images, 2000, {was.pipe: writer})
    with pytest.raises(RestoreError, match="within 1 s"):
        restoring.restore(job.place(), request, job.spawn_criu(), 1.0)
    os.close(writer)
    job.capsule.destroy()
    assert job.capsule.host_pids() == []


def test_the_images_say_how_memory_lies_and_which_numbers_are_taken(machine: Machine):
    _, images = dumped(machine)
    streams = {stream.name: stream for stream in reader().streams(images)}
    assert set(streams) == set(images)
    spaces = [stream.memory for stream in streams.values() if stream.memory]
    assert {space.space for space in spaces} == {"mm-1000", "mm-1001"}
    for stream in streams.values():
        if stream.memory:
            assert sum(stream.memory.lengths) * 4096 == stream.data.size
            ends = [s + n for s, n in zip(stream.memory.starts, stream.memory.lengths, strict=True)]
            assert all(end < start for end, start in zip(ends, stream.memory.starts[1:], strict=False))
    assert reader().last_pid(images) == 1001


def test_what_criu_writes_as_the_thread_of_a_zombie_is_not_taken_for_a_number():
    pycriu_import.images(provision.find().pycriu_path)
    pstree_entry = importlib.import_module("pycriu.images.pstree_pb2").pstree_entry
    alive = pstree_entry(pid=1001, ppid=1000, pgid=1001, sid=1000, threads=[1001, 1007])
    zombie = pstree_entry(pid=1002, ppid=1001, pgid=1001, sid=1000, threads=[0x5E6617C0])
    messages = [entry.SerializeToString() for entry in (alive, zombie)]
    image = bytes(8) + b"".join(len(message).to_bytes(4, "little") + message for message in messages)
    assert reader().last_pid({"pstree.img": BytesSource(image)}) == 1007
