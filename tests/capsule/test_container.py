"""A container's capsules: the agent beside the shim's own job, and capsules made in the container's namespaces."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from live import MARK, marked, wait_until
from support.processes import PATIENCE, die_with_parent

from ckptrun.capsule import container
from ckptrun.capsule.capsule import Callbacks, Capsule
from ckptrun.capsule.container import ContainerCapsule
from ckptrun.capsule.helper import HIDDEN, find
from ckptrun.capsule.spec import CapsuleSpec, Program
from ckptrun.errors import MissingFeatureError
from ckptrun.journal import fanotify

if TYPE_CHECKING:
    from shims import Room, Sidecar

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to enter namespaces")

SHM = "/dev/shm"
CONTAINER = """
mount -t tmpfs container /mnt && touch /mnt/inside
hostname the-container
mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro,nosuid,nodev,noexec /proc/sys
mount --bind /dev/null /proc/timer_list
mount -t tmpfs -o ro,size=0k mask /proc/bus
mount -t tmpfs -o size=77m shm /dev/shm
exec "$@"
"""
IN_A_CONTAINER = ("unshare", "--mount", "--uts", "--ipc", "sh", "-ec", CONTAINER, "sh")


class Agent:
    """A container capsule and what it has told."""

    def __init__(self, sidecar: Sidecar, folder: Path) -> None:
        self.exits: list[tuple[int, int]] = []
        self.gone = threading.Event()
        self.tmp = folder / "tmp"
        self.tmp.mkdir(exist_ok=True)
        self.tmp.chmod(0o1777)
        spec = CapsuleSpec(find(), {"tmp": self.tmp})
        callbacks = Callbacks(lambda *end: self.exits.append(end), lambda _: None, self.gone.set)
        self.capsule = ContainerCapsule(spec, sidecar.shim, callbacks)
        self.capsule.start()
        self.sidecar = sidecar

    def start(self, script: str) -> int:
        """Start a job that is a shell's script; its output goes where the shim's does."""
        hello = self.sidecar.shim.hello
        argv = [find().inside_path, "root", "0", "24", "80", "sh", "-c", script]
        env = {**hello.env, "TMPDIR": f"{HIDDEN}/tmp"}
        return self.capsule.start_root(Program(argv, env, "/", {1: hello.stdio[1], 2: hello.stdio[2]}))


def start(room: Room, **options: object) -> tuple[Agent, object]:
    sidecar, started = room.both("job", **options)
    return Agent(sidecar, room.folder), started


def outsider(pid: int, *command: str) -> subprocess.Popen[bytes]:
    """Start a program in a container as `kubectl exec` does."""
    argv = ["nsenter", f"--mount=/proc/{pid}/ns/mnt", *command]
    return subprocess.Popen(argv, preexec_fn=die_with_parent)  # noqa: PLW1509 - one system call


def test_the_containers_job_finds_what_a_capsules_job_does(room: Room):
    agent, started = start(room)
    pid = agent.start(
        f'readlink /proc/$PPID/exe; echo x > "$TMPDIR/file"; touch {SHM}/mine; ls -A {SHM}; sleep 100'
    )
    assert started.line() == find().inside_path
    assert [started.line(), started.line()] == [".ckptrun", "mine"]
    assert (agent.tmp / "file").read_text() == "x\n"
    assert not Path(SHM, "mine").exists(), "the machine's is another"
    assert agent.capsule.job_pids(pid)[0] == pid
    assert len(agent.capsule.job_pids(pid)) == 3
    assert agent.capsule.strays(pid) == []
    agent.capsule.destroy()


def test_the_end_of_the_job_root_is_told_as_a_capsules_init_tells_it(room: Room):
    agent, _ = start(room)
    pid = agent.start("exit 4")
    wait_until(lambda: agent.exits == [(pid, 4 << 8)], what="the end")
    agent.capsule.destroy()
    assert agent.gone.is_set()
    assert agent.sidecar.shim.connected, "the container lives"


def test_ending_ends_every_process_of_the_job_and_nobody_elses(room: Room):
    mark = uuid.uuid4().hex
    agent, started = start(room, env={MARK: mark})
    pid = agent.start("setsid sleep 100 & sh -c 'setsid sleep 100 & exit'; sleep 100")
    wait_until(lambda: len(marked(mark)) == 6, what="shim, root, shell and three sleeps")
    visitor = outsider(started.pid, "sleep", "100")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: agent.exits, what="the root's end")
    agent.capsule.destroy()
    assert marked(mark) == [started.pid]
    assert visitor.poll() is None
    visitor.kill()
    visitor.wait()
    agent.capsule.destroy()


def test_clearing_leaves_the_agent(room: Room):
    agent, _ = start(room)
    pid = agent.start("sleep 100")
    agent.capsule.clear()
    wait_until(lambda: agent.exits == [(pid, signal.SIGKILL)], what="the root's end")
    assert not agent.gone.is_set()
    assert agent.capsule.spawn(Program(["/bin/true"], {}, "/")).wait(PATIENCE) == 0
    agent.capsule.destroy()


def test_a_shim_that_dies_takes_everything_in_the_container_with_it(room: Room):
    mark = uuid.uuid4().hex
    agent, started = start(room, env={MARK: mark})
    agent.start("setsid sleep 100 & sleep 100")
    wait_until(lambda: len(marked(mark)) == 5, what="all run")
    started.process.kill()
    assert agent.gone.wait(PATIENCE)
    assert marked(mark) == []


def test_a_job_without_an_agent_is_ended(room: Room):
    mark = uuid.uuid4().hex
    agent, started = start(room, env={MARK: mark})
    agent.start("sleep 100")
    wait_until(lambda: len(marked(mark)) == 4, what="all run")
    os.kill(agent.capsule.init_pid, signal.SIGKILL)
    assert agent.gone.wait(PATIENCE)
    assert marked(mark) == [started.pid]


def test_a_job_that_is_left_runs_on_and_the_next_agent_finds_everything_as_it_was(room: Room):
    agent, started = start(room)
    pid = agent.start(f"echo kept > {SHM}/file; echo ready; read -r _; :; sleep 100")
    assert started.line() == "ready"
    agent.capsule.leave()
    assert agent.gone.is_set()
    assert agent.exits == []
    agent.sidecar.die()
    sidecar = room.sidecar()
    sidecar.take()
    again = Agent(sidecar, room.folder)
    assert again.capsule.root_pid == pid
    assert again.capsule.host_pid(pid) == pid
    assert Path(f"/proc/{pid}/root{SHM}/file").read_text() == "kept\n"
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: again.exits == [(pid, signal.SIGKILL)], what="its end")
    again.capsule.destroy()


def test_a_job_that_begins_anew_in_the_same_container_finds_nothing_of_the_one_before(room: Room):
    agent, started = start(room)
    agent.start(f"touch {SHM}/left; echo; sleep 100")
    started.line()
    agent.capsule.destroy()
    again = Agent(agent.sidecar, room.folder)
    again.start(f"ls -A {SHM}; echo end")
    assert [started.line(), started.line()] == [".ckptrun", "end"]
    mounts = Path(f"/proc/{started.pid}/mountinfo").read_text()
    assert sum(f" {HIDDEN}/tmp " in line for line in mounts.splitlines()) == 1
    again.capsule.destroy()


def test_an_agents_programs_run_in_the_container_and_are_no_part_of_the_job(room: Room):
    agent, started = start(room, wrap=IN_A_CONTAINER)
    pid = agent.start("sleep 100")
    reader, writer = os.pipe()
    folder = os.open(agent.tmp, os.O_PATH | os.O_DIRECTORY)
    script = "ls /mnt; hostname; id -u; echo here > by-agent; df --output=size -BM /dev/shm | tail -1; read -r line"
    stdin, end = os.pipe()
    running = agent.capsule.spawn(
        Program(
            ["/bin/sh", "-c", script], {"PATH": "/usr/bin:/bin"}, "/", {0: stdin, 1: writer}, folder=folder
        )
    )
    for fd in (writer, folder, stdin):
        os.close(fd)
    with os.fdopen(reader) as file:
        assert [file.readline().strip() for _ in range(4)] == ["inside", "the-container", "0", "77M"]
        assert running.pid in agent.capsule.host_pids()
        assert running.pid not in agent.capsule.job_pids(pid)
        os.close(end)
        assert running.wait(PATIENCE) == 1
    assert (agent.tmp / "by-agent").read_text() == "here\n", "its folder, by descriptor"
    assert agent.exits == [], "only the job root's end counts"
    agent.capsule.destroy()
    assert started.process.poll() is None


def test_what_the_job_does_to_files_is_known_from_what_others_in_the_pod_do(room: Room):
    agent, started = start(room)
    group = fanotify.group()
    fanotify.watch_filesystem(group, str(room.folder))
    with (room.folder / "log").open("wb+") as log:
        agent.capsule.watch(group, log.fileno())
        os.close(group)
        work = agent.tmp
        agent.start(
            f"cd {work}; echo > alive-{work.parent.name}; (sh -c 'echo > gone'); echo done; sleep 100"
        )
        assert started.line() == "done"
        agent.capsule.spawn(Program(["/bin/sh", "-c", f"echo > {work}/agents"], {}, "/")).wait(PATIENCE)
        subprocess.run(
            ["sh", "-c", f"echo > {work}/sidecars; read -r _"], stdin=subprocess.DEVNULL, check=False
        )
        visitor = outsider(
            started.pid, sys.executable, "-c", f"open({str(work / 'visitors')!r}, 'w'); input()"
        )
        wait_until((work / "visitors").exists)
        agent.capsule.sync()
        data = Path(log.name).read_bytes()
    names = {event.place.name.decode() for event in fanotify.parse(data) if event.place}
    assert {f"alive-{work.parent.name}", "gone"} <= names
    assert not names & {"agents", "visitors"}
    visitor.kill()
    visitor.wait()
    agent.capsule.destroy()


def test_a_capsule_in_a_container_has_its_namespaces_and_the_masks_of_its_proc(room: Room):
    sidecar, _ = room.both("job", wrap=IN_A_CONTAINER)
    gone = threading.Event()
    (room.folder / "tmp").mkdir()
    spec = container.within(CapsuleSpec(find(), {"tmp": room.folder / "tmp"}), sidecar.shim.pid)
    capsule = Capsule(spec, Callbacks(lambda *_: None, lambda _: None, gone.set))
    capsule.start()
    reader, writer = os.pipe()
    script = """
    exec 2>&1
    echo $$; ls /mnt; hostname; stat -c %t:%T /proc/timer_list; ls /proc/bus | wc -l
    df --output=size -BM /dev/shm | tail -1
    touch /dev/shm/.ckptrun/tmp/file
    cat /proc/sys/vm/swappiness > /proc/sys/vm/swappiness || echo refused
    echo 5000 > /proc/sys/kernel/ns_last_pid && sh -c 'echo $$'
    """
    program = Program(["/bin/sh", "-c", script], {"PATH": "/usr/bin:/bin"}, "/", {1: writer}, last_pid=999)
    assert capsule.spawn(program).wait(PATIENCE) == 0
    os.close(writer)
    with os.fdopen(reader) as file:
        lines = [line.strip() for line in file.read().splitlines()]
    assert lines[:6] == ["1000", "inside", "the-container", "1:3", "0", "77M"]
    assert "Read-only file system" in lines[6]
    assert lines[7:] == ["refused", "5001"]
    assert (room.folder / "tmp/file").exists()
    capsule.destroy()
    assert gone.is_set()
    assert sidecar.shim.connected


def test_a_container_that_is_gone_is_named():
    ended = subprocess.Popen(["true"])
    ended.wait()
    capsule = Capsule(
        CapsuleSpec(find(), {}, enter=ended.pid), Callbacks(lambda *_: None, lambda _: None, lambda: None)
    )
    with pytest.raises(MissingFeatureError, match=f"namespaces of process {ended.pid}: No such process"):
        capsule.start()
