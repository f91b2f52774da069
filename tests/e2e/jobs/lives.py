"""A job whose parts are processes: their attributes, their families, the ends that nobody has asked for yet."""

from __future__ import annotations

import ctypes
import fcntl
import os
import pty
import resource
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import TYPE_CHECKING

from parts import LIBC, PATIENCE, checked, ended, forked, main, public, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Child:
    """A child that sets itself up, and later answers one question."""

    def __init__(self, setup: Callable[[], object], answer: Callable[[], object]) -> None:
        self._go, self._said, ready = os.pipe(), os.pipe(), os.pipe()

        def work() -> None:
            os.close(self._go[1])
            setup()
            os.write(ready[1], b"x")
            os.read(self._go[0], 1)
            os.write(self._said[1], repr(answer()).encode())

        self.pid = forked(work)
        os.close(self._said[1])
        os.read(ready[0], 1)

    def says(self) -> tuple[str, int]:
        os.write(self._go[1], b"x")
        words = os.read(self._said[0], 4096).decode()
        return words, ended(self.pid)


def prctl(option: int, *values: int) -> int:
    return checked(LIBC.prctl(option, *map(ctypes.c_ulong, (*values, 0, 0, 0, 0)[:4])))


def pdeathsig() -> int:
    value = ctypes.c_int()
    checked(LIBC.prctl(2, ctypes.byref(value)))
    return value.value


def status(name: str) -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(f"{name}:"))


def part_attributes() -> Iterator[object]:
    def setup() -> None:
        Path("folder").mkdir()
        os.chdir("folder")
        os.umask(0o027)
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, 300))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 1 << 20))
        os.nice(5)
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        prctl(38, 1)  # PR_SET_NO_NEW_PRIVS
        prctl(1, signal.SIGUSR1)  # PR_SET_PDEATHSIG
        prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
        LIBC.prctl(15, b"a name")
        os.setpgid(0, 0)

    def answer() -> object:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE), resource.getrlimit(resource.RLIMIT_CORE)
        subreaper = ctypes.c_int()
        checked(LIBC.prctl(37, ctypes.byref(subreaper)))
        return (
            Path.cwd().name,
            os.umask(0),
            limits,
            os.nice(0),
            os.sched_getscheduler(0),
            prctl(39),
            pdeathsig(),
            subreaper.value,
            Path("/proc/self/comm").read_text(),
            os.getpgid(0) == os.getpid(),
        )

    child = Child(setup, answer)
    yield
    yield child.says()


def serve(question: int, answer: int) -> None:
    """Say who one is whenever asked."""
    signal.alarm(120)  # nobody's child: the test may have gone
    while os.read(question, 1):
        os.write(answer, struct.pack("iii", os.getpid(), os.getsid(0), os.getpgid(0)))
    os._exit(0)


def lead(question: int, answer: int, *, group: bool) -> None:
    """Lead a session, leave a server behind in it, and end."""
    os.setsid()
    if os.fork() == 0:
        if group:
            os.setpgid(0, 0)
        serve(question, answer)


def keep(question: int, answer: int) -> None:
    """Lead a session in which an orphan serves, and live on."""
    os.setsid()
    ended(forked(lambda: serve(question, answer) if os.fork() == 0 else None))
    signal.pause()


def part_daemons() -> Iterator[object]:
    """Daemons whose session leader has ended, and an orphan in a session whose leader lives."""
    question, answer = os.pipe(), os.pipe()
    ends = question[0], answer[1]
    leaders = [forked(lambda group=group: lead(*ends, group=group)) for group in (False, True)]
    assert [ended(pid) for pid in leaders] == [0, 0]
    living = forked(lambda: keep(*ends))
    yield
    found: dict[int, tuple[int, int, int]] = {}
    while len(found) < 3:
        os.write(question[1], b"x")
        words = struct.unpack("iii", os.read(answer[0], 12))
        found[words[1]] = words
    shapes = [(found[sid][2] == sid, found[sid][2] == found[sid][0]) for sid in (*leaders, living)]
    for pid in (living, *(words[0] for words in found.values())):
        os.kill(pid, signal.SIGKILL)
    yield shapes, ended(living)


def part_affinity() -> Iterator[object]:
    all_of_them = sorted(os.sched_getaffinity(0))
    child = Child(lambda: os.sched_setaffinity(0, all_of_them[-1:]), lambda: os.sched_getaffinity(0))
    yield
    words, code = child.says()
    yield words == repr({all_of_them[-1]}), code, sorted(os.sched_getaffinity(0)) == all_of_them


def part_filter_of_its_own() -> Iterator[object]:
    def setup() -> None:
        code = b"".join(
            struct.pack("HBBI", *step)
            for step in (
                (0x20, 0, 0, 0),
                (0x15, 0, 1, 170),
                (0x06, 0, 0, 0x50000 | 77),
                (0x06, 0, 0, 0x7FFF0000),
            )
        )
        buffer = ctypes.create_string_buffer(code)
        program = struct.pack("HxxxxxxQ", 4, ctypes.addressof(buffer))
        prctl(38, 1)
        checked(LIBC.prctl(22, 2, program))  # PR_SET_SECCOMP: sethostname (170) gives 77

    def answer() -> object:
        LIBC.sethostname(b"x", 1)
        return ctypes.get_errno()

    child = Child(setup, answer)
    yield
    yield child.says()


def part_zombies() -> Iterator[object]:
    def dies_of(number: int) -> int:
        os.kill(os.getpid(), number)
        return 99

    pids = [forked(lambda: 0), forked(lambda: 42), forked(lambda: 127)]
    pids += [
        forked(lambda number=number: dies_of(number))
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGRTMIN + 3)
    ]
    for pid in pids:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    yield
    yield [ended(pid) for pid in pids]


def part_stopped() -> Iterator[object]:
    pid = forked(lambda: (os.kill(os.getpid(), signal.SIGSTOP), 7)[1])
    os.waitpid(pid, os.WUNTRACED)
    yield
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    os.kill(pid, signal.SIGCONT)
    yield state, ended(pid)


def part_groups_and_sessions() -> Iterator[object]:
    """A group whose leader has ended, and a session with two groups in it."""
    leader = forked(lambda: (os.setpgid(0, 0), signal.pause()))
    until(lambda: os.getpgid(leader) == leader)
    member = forked(lambda: (os.setpgid(0, leader), signal.pause()))
    until(lambda: os.getpgid(member) == leader)
    os.kill(leader, signal.SIGKILL)
    ended(leader)
    said = os.pipe()

    def session() -> None:
        os.setsid()
        inner = forked(lambda: (os.setpgid(0, 0), signal.pause()))
        until(lambda: os.getpgid(inner) == inner)
        os.write(said[1], struct.pack("i", inner))
        signal.pause()

    outer = forked(session)
    inner = struct.unpack("i", os.read(said[0], 4))[0]
    yield
    found = os.getpgid(member) == leader, os.getsid(member) == os.getsid(0)
    found += os.getsid(outer) == outer, os.getsid(inner) == outer, os.getpgid(inner) == inner
    os.killpg(leader, signal.SIGTERM)
    os.kill(inner, signal.SIGTERM)
    os.kill(outer, signal.SIGTERM)
    yield *found, ended(member), ended(outer)


def part_deleted_program() -> Iterator[object]:
    shutil.copy("/bin/sleep", "program")
    running = subprocess.Popen([str(Path("program").resolve()), "1000"])
    until(lambda: "program" in str(Path(f"/proc/{running.pid}/exe").readlink()))
    Path("program").unlink()
    yield
    link = Path(f"/proc/{running.pid}/exe").readlink()
    running.terminate()
    yield link.name, running.wait()


def part_deleted_working_directory() -> Iterator[object]:
    def setup() -> None:
        Path("lost").mkdir()
        os.chdir("lost")
        Path("../lost").rmdir()

    def answer() -> object:
        try:
            return os.getcwd()  # noqa: PTH109
        except FileNotFoundError:
            return "no name"

    child = Child(setup, answer)
    yield
    yield child.says()


def part_terminal_child() -> Iterator[object]:
    """A shell on a pty of its own, in the way of pexpect."""
    pid, master = pty.fork()
    if pid == 0:
        os.execv(
            "/bin/sh",
            ["sh", "-c", "stty -echo; echo up; read word; echo got $word; echo held >/dev/tty; exit 3"],
        )
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", 33, 99, 0, 0))
    text = os.read(master, 100)
    yield
    os.write(master, b"hello\n")
    size = struct.unpack("4H", fcntl.ioctl(master, termios.TIOCGWINSZ, bytes(8)))[:2]
    data = b""
    try:
        while select.select([master], [], [], PATIENCE)[0]:
            data += os.read(master, 100)
    except OSError:  # how a terminal ends
        pass
    yield text.strip(), data.split(), size, ended(pid)


def part_open_terminal() -> Iterator[object]:
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    before[3] &= ~termios.ECHO & ~termios.ICANON
    termios.tcsetattr(slave, termios.TCSANOW, before)
    yield
    same = termios.tcgetattr(slave)[3] == before[3]
    os.write(master, b"typed")
    typed = os.read(slave, 10)
    os.write(slave, b"shown")
    yield same, typed, os.read(master, 10)


def part_large_environment() -> Iterator[object]:
    environment = os.environ | {f"LARGE_{number}": "v" * 100_000 for number in range(4)}
    code = "import os, sys; sys.stdin.read(1); print(sum(map(len, os.environ.values())) > 400000, len(sys.argv[1]))"
    command = [sys.executable, "-c", code, "a" * 120_000]
    running = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    until(lambda: len(Path(f"/proc/{running.pid}/environ").read_bytes()) > 400_000)
    yield
    yield running.communicate(b"x")[0], running.wait()


def part_privileges() -> Iterator[object]:
    def setup() -> None:
        if os.getuid() == 0:
            prctl(24, 21)  # PR_CAPBSET_DROP: SYS_ADMIN
            prctl(8, 1)  # PR_SET_KEEPCAPS
            os.setgroups([1234])

    child = Child(setup, lambda: (status("CapBnd"), status("CapEff"), status("Groups"), prctl(7)))
    yield
    yield child.says()


def part_pipelines() -> Iterator[object]:
    # The last part: a child forked later would hold the pipe's end as well.
    upper = subprocess.Popen(["tr", "a-z", "A-Z"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    counter = subprocess.Popen(["wc", "-c"], stdin=upper.stdout, stdout=subprocess.PIPE)
    assert upper.stdin
    assert counter.stdout
    upper.stdout.close()  # type: ignore[union-attr]
    upper.stdin.write(b"before ")
    upper.stdin.flush()
    yield
    upper.stdin.write(b"after")
    upper.stdin.close()
    yield counter.stdout.read().strip(), upper.wait(), counter.wait()


if __name__ == "__main__":
    main(public(globals()))
