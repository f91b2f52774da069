"""A real job in a real capsule, driven by hand: what the tests of the capsule and of CRIU's engine share."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import shutil
import signal
import struct
import sys
import tempfile
import termios
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from support.processes import PATIENCE

from ckptrun.capsule import helper as helpers
from ckptrun.capsule.capsule import ROOT_PID, Callbacks, Capsule
from ckptrun.capsule.spec import CapsuleSpec, Identity, Offsets, Program
from ckptrun.criu import dumping, engine, provision, restoring
from ckptrun.criu.images import ImageReader
from ckptrun.criu.staging import Extents, Slot

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ckptrun.capsule.running import Running
    from ckptrun.core.model import Source

MARK = "CKPTRUN_TEST_MARK"


def _python_for_everyone() -> str:
    """Return a Python that every user may run: the one of the tests may lie in a private folder."""
    for path in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        if all(folder.stat().st_mode & 0o001 for folder in Path(path).parents) and os.access(path, os.X_OK):
            return path
    return sys.executable


PYTHON = _python_for_everyone()
COUNTER = """
import time
n = 0
while True:
    n += 1
    print("tick", n, time.monotonic(), flush=True)
    time.sleep(0.02)
"""
"""A job whose counter tells whether it runs, and from where."""


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE, what: str = "") -> None:
    """Poll until `condition` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what or condition}"
        time.sleep(0.005)


def descriptors() -> int:
    """Return how many descriptors this process holds."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def marked(mark: str) -> list[int]:
    """Return the PIDs, anywhere on this machine, whose environment carries `mark`."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


class Lines:
    """What comes out of a pipe, line by line, as it comes."""

    def __init__(self, fd: int) -> None:
        self.all: list[str] = []
        self.ended = threading.Event()
        self._fd = fd
        self._reading = threading.Lock()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        rest = b""
        while poll.poll():
            with self._reading:
                data = os.read(self._fd, 65536)
                *lines, rest = (rest + data).split(b"\n")
                self.all += [line.decode(errors="replace").rstrip("\r") for line in lines]
            if not data:
                break
        if rest:
            self.all.append(rest.decode(errors="replace"))
        with self._reading:
            os.close(self._fd)
        self.ended.set()

    def find(self, pattern: str, seconds: float = PATIENCE) -> re.Match[str]:
        """Wait for a line that matches."""
        hit: list[re.Match[str]] = []

        def look() -> bool:
            hit.extend(match for line in list(self.all) if (match := re.search(pattern, line)))
            return bool(hit)

        wait_until(look, seconds, f"{pattern!r} in {self.all[-5:]}")
        return hit[0]

    def goes_on(self, seconds: float = PATIENCE) -> None:
        """Wait for another line."""
        before = len(self.all)
        wait_until(lambda: len(self.all) > before + 1, seconds, "the job's next line")

    def settled(self) -> None:
        """Wait until everything that was written has been read; the writer must be stopped."""

        def read() -> bool:
            with self._reading:
                return not struct.unpack("i", fcntl.ioctl(self._fd, termios.FIONREAD, bytes(4)))[0]

        wait_until(read, what="everything is read")

    def children(self, count: int) -> list[int]:
        """Wait until so many PIDs of children have been told, and return all."""

        def told() -> list[int]:
            return [int(line.split()[1]) for line in list(self.all) if line.startswith("child ")]

        wait_until(lambda: len(told()) >= count, what=f"{count} children")
        return told()

    def ticks(self) -> list[tuple[int, float]]:
        """Return (counter, clock) of every tick so far."""
        words = [line.split() for line in list(self.all)]
        return [(int(w[1]), float(w[2])) for w in words if len(w) == 3 and w[0] == "tick"]


class Box:
    """One capsule and what init says about it."""

    def __init__(self, folder: Path, **spec: object) -> None:
        self.exits: dict[int, int] = {}
        self.stops: list[int] = []
        self.gone = threading.Event()
        callbacks = Callbacks(self.exits.__setitem__, self.stops.append, self.gone.set)
        shared: Mapping[str, Path] = {"tmp": folder / "tmp"}
        (folder / "tmp").mkdir(exist_ok=True)
        self.helper = helpers.find(None)
        self.capsule = Capsule(CapsuleSpec(self.helper, shared, **spec), callbacks)  # type: ignore[arg-type]
        self.capsule.start()

    def exit_of(self, pid: int) -> int:
        """Wait for a program's exit code (negative: signal)."""
        wait_until(lambda: pid in self.exits, what=f"exit of {pid}")
        return os.waitstatus_to_exitcode(self.exits[pid])

    def run(self, argv: Sequence[str], **program: object) -> tuple[int, str]:
        """Run a program to its end; returns exit code and output."""
        reader, writer = os.pipe()
        program = {"env": dict(os.environ), "cwd": "/", **program}
        try:
            running = self.capsule.spawn(
                Program(list(argv), fds={1: writer, 2: writer}, **program)  # type: ignore[arg-type]
            )
        except OSError:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        with os.fdopen(reader) as file:
            text = file.read()
        code = running.wait(PATIENCE)
        assert code is not None
        return code, text


class Job(Box):
    """A job in a capsule, with its output in `out`."""

    def __init__(self, folder: Path, **spec: object) -> None:
        super().__init__(folder, **spec)
        self.folder = folder
        self.out: Lines
        self.pipe = ""

    def _output(self) -> int:
        reader, writer = os.pipe()
        self.out = Lines(reader)
        self.pipe = f"pipe:[{os.fstat(writer).st_ino}]"
        return writer

    def start(self, code: str | Sequence[str], mask: int = 0, **program: object) -> Running:
        """Start the job root with Python code, or with a command."""
        command = [PYTHON, "-c", code] if isinstance(code, str) else list(code)
        writer = self._output()
        fds = {1: writer, 2: writer} | program.pop("fds", {})  # type: ignore[operator]
        env = program.pop("env", dict(os.environ))
        program = {"last_pid": ROOT_PID - 1, "deny_io_uring": True, "cwd": "/", **program}
        try:
            return self.capsule.spawn(
                Program(
                    [self.helper.inside_path, "root", str(mask), "24", "80", *command],
                    env,
                    fds=fds,
                    **program,
                )  # type: ignore[arg-type]
            )
        finally:
            os.close(writer)

    def spawn_criu(self, identity: Identity | None = None) -> engine.Spawn:
        """Return what the engine starts CRIU by."""

        def spawn(argv: Sequence[str], env: Mapping[str, str], fds: Mapping[int, int]) -> Running:
            pid = self.capsule.next_helper_pid()
            return self.capsule.spawn(Program(argv, env, "/", fds, identity, pid=pid))

        return spawn

    def place(self, name: str = "op", *, unprivileged: bool = False) -> engine.Place:
        """Return a fresh folder for one operation."""
        folder = self.folder / name
        engine.clean(folder)
        return engine.Place(provision.find(), folder, self.helper.inside_path, unprivileged)

    def dump(
        self,
        slot: Slot,
        frozen: Callable[[dict[str, Extents]], None] = lambda _: None,
        *,
        max_freeze: float = 20.0,
        hold: float = 0.0,
        external: Sequence[str] = (),
        identity: Identity | None = None,
        unprivileged: bool = False,
        spawn: engine.Spawn | None = None,
    ) -> dumping.DumpResult:
        """Dump the job."""
        slot.used = 0
        request = dumping.DumpRequest(ROOT_PID, slot, [self.pipe, *external], max_freeze, frozen, hold)
        return dumping.dump(
            self.place(unprivileged=unprivileged), request, spawn or self.spawn_criu(identity)
        )

    def restore(
        self,
        images: Mapping[str, Source],
        was: Job,
        *,
        unprivileged: bool = False,
        inherit: Mapping[str, int] | None = None,
    ) -> None:
        """Restore what `was` was dumped to, in this capsule."""
        writer = self._output()
        last_pid = reader().last_pid(images)
        try:
            request = restoring.RestoreRequest(
                reader().for_restore(images),
                last_pid,
                {was.pipe: writer} | dict(inherit or {}),
                adopter=ROOT_PID if reader().has_orphans(images) else 0,
            )
            restoring.restore(self.place(unprivileged=unprivileged), request, self.spawn_criu(), 60.0)
        finally:
            os.close(writer)

    def signal(self, sig: int) -> None:
        """Signal the job root."""
        self.capsule.kill(ROOT_PID, sig)


def reader() -> ImageReader:
    """Return the reader of images."""
    return ImageReader(provision.find().pycriu_path)


class Machine:
    """Makes boxes and ends them."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="cr-"))  # short: sockets lie here
        self.boxes: list[Box] = []

    def box(self, **spec: object) -> Box:
        self.boxes.append(Box(self.folder, **spec))
        return self.boxes[-1]

    def job(self, code: str | Sequence[str] | None = None, **program: object) -> Job:
        spec = {k: program.pop(k) for k in ("user_namespace", "owner", "offsets") if k in program}
        job = Job(self.folder, **spec)
        self.boxes.append(job)
        if code is not None:
            job.start(code, **program)
        return job

    def slot(self, warm: int = 64 << 20) -> Slot:
        slot = Slot(512 << 20)
        slot.populate(warm)
        return slot

    def close(self) -> None:
        for box in self.boxes:
            box.capsule.destroy()
        shutil.rmtree(self.folder, ignore_errors=True)


__all__ = [
    "COUNTER",
    "MARK",
    "PYTHON",
    "Box",
    "Identity",
    "Job",
    "Lines",
    "Machine",
    "Offsets",
    "marked",
    "signal",
    "wait_until",
]
