"""Runs a provocation: a real job in a real capsule, a real CRIU, the log that it leaves, and the finding in it.

Run as a program, it captures the logs of all of them anew into ``logs/``.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    TESTS = Path(__file__).parents[1]
    sys.path[:0] = [str(TESTS.parent), str(TESTS), str(TESTS / "capsule")]

from live import Job, Machine, reader
from provocations import DUMPS, PASSING, PRELUDE, RESTORES, DumpCase, RestoreCase, Scene

from ckptrun.capsule.spec import Program
from ckptrun.core.model import BytesSource
from ckptrun.criu import dumping, engine, remedies, restoring
from ckptrun.criu.connections import KEEP_FLAGS
from ckptrun.errors import DumpError, RestoreError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptrun.core.model import Source
    from ckptrun.criu.remedies import Finding


class NotPossibleError(Exception):
    """This machine does not let a job get into that state."""


class Outside:
    """What a job may be connected to: a listening socket, and a datagram socket."""

    def __init__(self, machine: Machine) -> None:
        self.peer, self.letters = machine.folder / "peer", machine.folder / "letters"
        for old in (self.peer, self.letters):
            old.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.peer))
        self._listener.listen()
        self._datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._datagrams.bind(str(self.letters))
        self._accepted: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def environment(self, **more: str) -> dict[str, str]:
        return dict(os.environ, PEER=str(self.peer), LETTERS=str(self.letters), **more)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._accepted.append(self._listener.accept()[0])

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for one in (self._listener, self._datagrams, *self._accepted):
            one.close()


def started(machine: Machine, case: DumpCase, outside: Outside) -> Job:
    """Start a provocation's job and wait until it is as it should be."""
    job = machine.job()
    fds = case.fds()
    code = PRELUDE + case.code + ("\nready()\n" if case.ready else "")
    try:
        job.start(
            code,
            env=outside.environment(),
            deny_io_uring="call(425" not in case.code,
            fds=fds,
            identity=case.owner,
        )
    finally:
        for fd in fds.values():
            os.close(fd)
    _await(job)
    return job


def _await(job: Job) -> None:
    job.out.find("ready|rror:", 30)
    if not any("ready" in line for line in job.out.all):
        raise NotPossibleError(job.out.all[-1])


class Dump:
    """One dump of a provocation."""

    def __init__(self, machine: Machine, job: Job, case: DumpCase) -> None:
        self.job = job
        self.retried: list[str] = []
        self.error: DumpError | None = None

        def changed(argv: Sequence[str], env: Mapping[str, str], fds: Mapping[int, int]) -> engine.Process:
            words = [word for word in argv if word not in case.drop]
            pid = job.capsule.next_helper_pid()
            argv = [*case.wrapped, *words, *case.add]
            return job.capsule.spawn(Program(argv, env, "/", fds, pid=pid, deny_io_uring=case.filtered))

        self.slot = machine.slot()
        request = dumping.DumpRequest(
            case.root,
            self.slot,
            [job.pipe],
            20.0,
            lambda _: None,
            flags=KEEP_FLAGS,
            pids=job.capsule.job_pids,
            retrying=self.retried.append,
        )
        self.place = job.place()
        try:
            self.result = dumping.dump(self.place, request, changed)
        except DumpError as error:
            self.error = error

    def log(self, name: str = "dump.log") -> Path:
        return self.place.folder / name

    def finding(self, name: str = "dump.log") -> Finding | None:
        return remedies.finding_of(self.log(name), self.job.capsule.job_pids())


class Restore:
    """A provocation dumped well, and its restore."""

    def __init__(self, machine: Machine, case: RestoreCase, outside: Outside) -> None:
        self.retried: list[str] = []
        self.error: RestoreError | None = None
        folder = machine.folder / "here"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "file").write_bytes(b"x" * 100)
        shutil.copy("/bin/sleep", folder / "program")
        was = machine.job()
        environment = outside.environment(HERE=str(folder))
        if case.command:
            was.start([word.replace("HERE", str(folder)) for word in case.command], env=environment)
        else:
            was.start(PRELUDE + case.code + "\nready()\n", env=environment)
            _await(was)
        result = was.dump(machine.slot())
        images: dict[str, Source] = {
            name: BytesSource(b"".join(map(bytes, source.pieces()))) for name, source in result.images.items()
        }
        was.capsule.destroy()
        with contextlib.ExitStack() as held:
            self.job = machine.job()
            case.mischief(Scene(folder, images, self.job, held))
            self._restore(case, images, was)

    def _restore(self, case: RestoreCase, images: dict[str, Source], was: Job) -> None:
        spawn = self.job.spawn_criu()

        def changed(argv: Sequence[str], env: Mapping[str, str], fds: Mapping[int, int]) -> engine.Process:
            return spawn([*case.wrapped, *(word for word in argv if word not in case.drop)], env, fds)

        writer = self.job._output()
        self.place = self.job.place()
        request = restoring.RestoreRequest(
            reader().for_restore(images), reader().last_pid(images), {was.pipe: writer}, KEEP_FLAGS
        )
        try:
            restoring.restore(
                self.place, replace(request, retrying=self.retried.append), changed, case.patience
            )
        except RestoreError as error:
            self.error = error
            self.job.capsule.destroy()  # as every failed restore is ended, before what stood in its way is gone
        finally:
            os.close(writer)

    def finding(self, name: str = "restore.log") -> Finding | None:
        return remedies.finding_of(self.place.folder / name)


_TASK = re.compile(r"\([\d.]+\) +(\d+): ")
_KEPT = re.compile(r"Error \(|Warn  ?\(|Dumping task \(pid|fdinfo \d")


def trimmed(log: Path, machine: Machine) -> str:
    """Return what matters of a log, without this machine's paths."""
    every = log.read_text(errors="replace").splitlines()
    last = {task[1]: line for line in every if (task := _TASK.match(line))}.values()
    lines = [line for line in every if _KEPT.search(line) or line in last]
    seen = [number for number, line in enumerate(lines) if "fdinfo" in line]
    kept = [line for number, line in enumerate(lines) if number not in seen[:-2]]
    return "\n".join(kept).replace(str(machine.folder).lstrip("/"), "tmp/lab") + "\n"


def capture_all(folder: Path) -> None:
    """Write the log of every provocation that this machine lets happen into `folder`."""
    machine = Machine()
    dumping.GHOST_LIMIT = 1 << 20
    try:
        for name, case in {**DUMPS, **PASSING}.items():
            outside = Outside(machine)
            try:
                dump = Dump(machine, started(machine, case, outside), case)
                log = dump.log("dump-first.log" if dump.retried else "dump.log")
                (folder / f"{name}.log").write_text(trimmed(log, machine))
            except NotPossibleError as error:
                print(f"{name}: {error}")
            outside.close()
        for name, restore_case in RESTORES.items():
            outside = Outside(machine)
            restore = Restore(machine, restore_case, outside)
            log = restore.place.folder / ("restore-first.log" if restore.retried else "restore.log")
            (folder / f"{name}.log").write_text(trimmed(log, machine))
            outside.close()
    finally:
        machine.close()


if __name__ == "__main__":
    capture_all(Path(__file__).parent / "logs")
