"""A job in a real capsule whose changes to files are watched, without CRIU: stopped for the freeze, and killed."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from journalkit import LOOP, Checkpoint, Keeper
from support.processes import PATIENCE

from ckptrun.capsule import helper as helpers
from ckptrun.capsule.capsule import ROOT_PID, Callbacks, Capsule
from ckptrun.capsule.spec import CapsuleSpec, Program
from ckptrun.journal import Journal, rollback

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptrun.journal import RollbackReport


class WatchedJob:
    """A process that runs statements one by one in a capsule of its own."""

    def __init__(self, cwd: Path, journal: Journal) -> None:
        self.gone = threading.Event()
        callbacks = Callbacks(lambda *_: None, lambda _: None, self.gone.set)
        self.capsule = Capsule(CapsuleSpec(helpers.find(), {}), callbacks)
        self.capsule.start()
        root = f"/proc/{self.capsule.init_pid}/root"
        assert journal.watch(root, self.capsule.watch, self.capsule.sync, str(cwd)) == ""
        self._cwd = cwd
        self._ends: list[int] = []

    def start(self) -> None:
        (read_in, write_in), (read_out, write_out) = os.pipe(), os.pipe()
        argv = [os.path.realpath(sys.executable), "-c", LOOP]
        fds = {0: read_in, 1: write_out}
        self.capsule.spawn(Program(argv, dict(os.environ), str(self._cwd), fds, last_pid=ROOT_PID - 1))
        os.close(read_in)
        os.close(write_out)
        self._stdin, self._stdout = os.fdopen(write_in, "wb", 0), os.fdopen(read_out, "rb")
        self.do("pass")
        self.pids = self.capsule.job_pids()

    def do(self, *statements: str) -> None:
        for statement in statements:
            self._stdin.write(statement.encode("unicode_escape") + b"\n")
            assert self._stdout.readline() == b"done\n", statement

    def freeze(self) -> None:
        os.kill(self.pids[0], signal.SIGSTOP)
        while " T " not in Path(f"/proc/{self.pids[0]}/stat").read_text():
            time.sleep(0.001)

    def thaw(self) -> None:
        os.kill(self.pids[0], signal.SIGCONT)

    def kill(self) -> None:
        self.capsule.destroy()
        assert self.gone.wait(PATIENCE)
        for end in ("_stdin", "_stdout"):
            if hasattr(self, end):
                getattr(self, end).close()


@dataclass
class Story:
    """One job over several incarnations: its journal, its checkpoints, its rollbacks."""

    top: Path
    trail: Path
    aside: Path
    limit: int = 1 << 30
    preserve: tuple[str, ...] = ()
    count: int = 0
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.new_supervisor()
        self.job = self._new_job()
        self.job.start()

    def new_supervisor(self) -> None:
        """Forget everything but what lies in files."""
        journal = Journal(self.limit, preserve=self.preserve, private=["/dev/shm"], trail=self.trail)
        self.keeper = Keeper(self.top, journal)

    def _new_job(self) -> WatchedJob:
        return WatchedJob(self.top, self.keeper.journal)

    def do(self, *statements: str) -> None:
        self.job.do(*statements)

    def take(self, between: Callable[[], None] = lambda: None) -> Checkpoint:
        """Take a checkpoint; its name is its number."""
        self.count += 1
        keeper, job = self.keeper, self.job
        prepared = keeper.journal.prepare(job.pids, keeper.put, keeper.previous)
        between()
        job.freeze()
        frozen = keeper.journal.capture(prepared, job.pids, keeper.put, str(self.count))
        job.thaw()
        checkpoint = keeper.keep(keeper.journal.seal(frozen))
        self.checkpoints[str(self.count)] = checkpoint
        return checkpoint

    def back(self, number: int = 0, **options: object) -> RollbackReport:
        """Kill the job and roll back to a checkpoint; the newest unless told."""
        self.job.kill()
        name = str(number or self.count)
        since = self.keeper.journal.since(name)
        records, contents = self.checkpoints[name].records, self.checkpoints[name].contents
        return rollback(records, contents.__getitem__, aside=self.aside, since=since, **options)  # type: ignore[arg-type]

    def go_on(self, number: int = 0) -> None:
        """Begin another incarnation from a checkpoint just rolled back to."""
        name = str(number or self.count)
        self.job = self._new_job()
        self.keeper.journal.resume(self.checkpoints[name].records, name)
        self.job.start()
