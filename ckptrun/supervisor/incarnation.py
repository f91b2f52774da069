"""One incarnation of the job: a capsule, its streams, and the report of its end, made exactly once.

The capsule's reader thread calls back here; what the loop must know is posted. An incarnation has *ended* when
nothing of its capsule lives and its output has been carried.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import psutil

from ckptrun.capsule.capsule import Callbacks, Tree
from ckptrun.capsule.helper import HIDDEN
from ckptrun.capsule.processes import children, is_over, pid_inside
from ckptrun.capsule.spec import CapsuleSpec, Offsets, Program
from ckptrun.core.events import CapsuleGone, JobEnded, Outcome
from ckptrun.criu import engine
from ckptrun.errors import RestoreError
from ckptrun.supervisor import rendezvous
from ckptrun.supervisor.job import Birth

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckptrun.capsule.capsule import Capsule
    from ckptrun.capsule.helper import Helper
    from ckptrun.capsule.running import Running
    from ckptrun.capsule.spec import Identity
    from ckptrun.capsule.streams import Streams
    from ckptrun.core.events import Event
    from ckptrun.criu.program import Criu
    from ckptrun.supervisor.job import Job

INTERRUPT_SECONDS = 5.0
"""A job that ends this soon after Ctrl-C ended because of it."""


class Incarnation:
    """One incarnation, from its capsule to its end."""

    def __init__(
        self,
        number: int,
        job: Job,
        streams: Streams,
        post: Callable[[Event], None],
        on_stop: Callable[[], None],
        *,
        birth: Birth = Birth.FRESH,
    ) -> None:
        self.number = number
        self.helper: Helper | None = None
        self.offsets = Offsets(0, 0)
        self.portable = job.portable
        self.tree = Tree() if not job.dwelling.at_hand else Tree(0, 0)
        """With 0 for what is not known yet."""
        self.started = time.monotonic()
        self.interrupted = float("-inf")
        self.ended = threading.Event()
        self._birth = birth
        self._job = job
        self._streams = streams
        self._post = post
        self._on_stop = on_stop
        self._lock = threading.Lock()
        self._live = False
        self._status: int | None = None
        self._oom_before = 0
        self._job_pid: int | None = None
        self._condemned = False
        self._opened = False
        self._restoring = False
        self.capsule: Capsule

    def open(self, helper: Helper, offsets: Offsets | None = None) -> None:
        """Make the capsule; main thread only.

        Raises:
            RestoreError: it was killed before.
            PermissionMissingError, MissingFeatureError: see `Capsule.start`.
        """
        if self._condemned:
            raise RestoreError("the run is over")
        shared = dict(self._job.meeting)
        if self._job.private_tmp is not None:
            shared["tmp"] = self._job.private_tmp
        privilege = self._job.privilege
        spec = CapsuleSpec(
            helper, shared, privilege.user_namespace, offsets, privilege.owner, rendezvous.READ_ONLY
        )
        self._oom_before = self._job.dwelling.oom_kills()
        self.helper = helper
        if offsets:
            self.offsets = offsets
        dwelling = self._job.dwelling
        make = {
            Birth.FRESH: dwelling.fresh,
            Birth.RESTORED: dwelling.restored,
            Birth.EARLIER: dwelling.again,
        }
        self.capsule = make[self._birth](spec, Callbacks(self._exited, self._stopped, self._gone))
        self.capsule.start()
        self._job.watch(self.root(), self.capsule)
        self._opened = True

    def start_fresh(self) -> None:
        """Start the user's command. Raises OSError."""
        assert self.helper is not None
        wiring = self._streams.wire()
        rows, columns = self._streams.terminal.size()
        argv = [
            self.helper.inside_path,
            "root",
            str(wiring.mask),
            str(rows),
            str(columns),
            *self._job.command,
        ]
        try:
            program = Program(
                argv,
                self.environment(),
                self._job.cwd,
                wiring.fds(),
                self._job.privilege.job,
                deny_io_uring=self._job.deny_io_uring,
            )
            self._streams.broke = self.capsule.part
            root = self.capsule.start_root(program, self._streams.kept)
            if not self.tree.root:
                self.tree = Tree(root, 0)
        finally:
            self._streams.wired()

    def go_on(self) -> None:
        """Serve the job that an earlier process has started. Raises OSError."""
        self._streams.broke = self.capsule.part
        self._streams.take_over(self.capsule.kept)
        root = self.capsule.follow()
        if root:
            self.tree = Tree(root, 0)

    @property
    def outlasting(self) -> bool:
        """Whether it may outlast this process, and another one go on with it as it is."""
        return self._job.dwelling.outlasting and self._birth is not Birth.RESTORED

    def environment(self) -> dict[str, str]:
        """Return the job's environment."""
        environment = dict(self._job.environment) | dict(self._job.privilege.environment)
        if self._job.private_tmp is not None:
            environment["TMPDIR"] = f"{HIDDEN}/tmp"  # noqa: S108 - the private one
        return rendezvous.job_environment(environment) if self._job.meeting else environment

    def place(self, criu: Criu, folder: Path) -> engine.Place:
        """Return where CRIU works, in a folder of ours."""
        dwelling, unprivileged = self._job.dwelling, self._job.privilege.unprivileged
        return engine.Place(criu, folder, dwelling.action, unprivileged, dwelling.at_hand)

    def spawn_criu(self, identity: Identity | None, place: engine.Place) -> Callable[..., Running]:
        """Return a function that starts CRIU, or a helper of its, inside the capsule as `identity`."""

        def spawn(argv: list[str], env: dict[str, str], fds: dict[int, int]) -> Running:
            pid = self.capsule.next_helper_pid()
            folder = os.open(place.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) if place.at_hand else -1
            try:
                return self.capsule.spawn(Program(argv, env, "/", fds, identity, pid=pid, folder=folder))
            finally:
                if folder >= 0:
                    os.close(folder)

        return spawn

    def restoring(self) -> None:
        """Say that CRIU is to make the job root: until `restored`, its end is that of an attempt, not of the job."""
        self._restoring = True

    def again(self) -> None:
        """Clear away what a failed attempt left, for the next one in the same capsule.

        Raises:
            RestoreError: it cannot be cleared.
        """
        try:
            self.capsule.clear()
        except OSError as error:
            raise RestoreError(f"the restore could not be tried again: {error.strerror}") from error
        self._status = None

    def restored(self) -> None:
        """Say that CRIU has made the job root: from now on its end is the job's; at once, if it has ended already."""
        with self._lock:
            self._restoring = False
            over = self._status is not None
        if over:
            self.capsule.destroy()

    def make_live(self) -> None:
        """Say that the job runs: from now on its end is reported as the job's; at once, if it has ended already."""
        with self._lock:
            self._live = True
            report = self.ended.is_set()
        if report:
            self._report()

    @property
    def root_status(self) -> int | None:
        """Wait status of the job root, once it has ended."""
        return self._status

    def pids(self) -> list[int]:
        """Return the PIDs, seen from here, of the job root and every process of the job, the root first."""
        return self.capsule.job_pids(self.tree.root)

    def dead(self) -> bool:
        """Whether the job root or the job's first process has died, even if nobody could be told yet."""
        pids = self.pids()
        return len(pids) < 2 or any(is_over(pid) for pid in (pids[0], self.job_pid() or 0))

    def job_pid(self) -> int | None:
        """Return the PID, seen from here, of the job's first process; None while there is none."""
        if not self._opened:
            return None
        if self._job_pid is None or not psutil.pid_exists(self._job_pid):
            pids = self.pids()
            if pids and not self.tree.first and (below := children(pids[0])):  # the first that it made
                self.tree = replace(self.tree, first=pid_inside(below[0]) or 0)
            inside = ((pid_inside(pid), pid) for pid in pids[1:])
            self._job_pid = next((pid for number, pid in inside if number == self.tree.first), None)
        return self._job_pid

    def root(self) -> str:
        """Return the capsule's root directory, as this process can open it."""
        return f"/proc/{self.capsule.init_pid}/root"

    def signal(self, signum: int) -> None:
        """Send a signal to the job, if it is there yet; the job root passes it on."""
        if self._opened:
            self.capsule.kill(self.tree.root, signum)

    def condemn(self) -> bool:
        """Have it killed: main thread only.

        Returns:
            Whether there is something to `destroy`. If not, it gets no capsule any more, and its end is posted.
        """
        self._condemned = True
        if not self._opened:
            self._post(CapsuleGone(time.monotonic(), self.number))
        return self._opened

    @property
    def condemned(self) -> bool:
        """Whether it is to be killed, or was."""
        return self._condemned

    @property
    def opened(self) -> bool:
        """Whether it has, or had, a capsule."""
        return self._opened

    def destroy(self) -> None:
        """End everything of this incarnation."""
        with contextlib.suppress(AttributeError):
            self.capsule.destroy()

    def _exited(self, pid: int, status: int) -> None:
        if self.tree.root in (0, pid):  # while it is not known, nobody else's end is told
            with self._lock:
                self._status = status
                over = not self._restoring
            if over:
                self.capsule.destroy()

    def _stopped(self, pid: int) -> None:
        if pid == self.tree.root:
            self._on_stop()

    def _gone(self) -> None:
        try:
            if self._streams.wiring is not None:
                self._streams.incarnation_ended()
        finally:  # whatever it is, the loop must not wait for ever
            with self._lock:
                self.ended.set()
                report = self._live
            if report:
                self._report()

    def _report(self) -> None:
        now = time.monotonic()
        if self._status is None:
            self._post(CapsuleGone(now, self.number))
            return
        code = os.waitstatus_to_exitcode(self._status)
        after = now - self.interrupted < INTERRUPT_SECONDS
        if code >= 0:
            outcome = Outcome(code=code, after_interrupt=after)
        else:
            oom = -code == 9 and self._job.dwelling.oom_kills() > self._oom_before
            outcome = Outcome(signal=-code, oom=oom, after_interrupt=after)
        self._post(JobEnded(now, self.number, outcome))
