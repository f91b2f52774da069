"""Capsules of a container that a shim has opened: of its job's first incarnation, and of restored ones.

The first incarnation runs in the container itself, as a child of the shim: what serves it in place of init is an
*agent*, which starts CRIU and watches files in the container's namespaces and has no say over the job's processes.
It has the same methods as a capsule, so that a supervisor need not know which it has. Restored incarnations are
capsules proper, made in the container's namespaces.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from ckptrun.capsule import masks
from ckptrun.capsule.capsule import CLEAR_PAUSE, END_SECONDS, Callbacks, Capsule
from ckptrun.capsule.helper import HIDDEN
from ckptrun.capsule.processes import descendants, in_mount_namespace, mount_namespace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptrun.capsule.shim import Shim
    from ckptrun.capsule.spec import CapsuleSpec, Program


EVENTS, UNWRITTEN = "events", "unwritten"
"""Names of what a shim keeps of the watch: the fanotify group, and what was read of it and not yet written down."""
BATCH = 1 << 16
"""Bytes of `UNWRITTEN`: `stub/watch.c`."""


def within(spec: CapsuleSpec, pid: int) -> CapsuleSpec:
    """Return the specification of a capsule in the container of process `pid`. Raises OSError: it is gone."""
    return replace(spec, enter=pid, masks=masks.of(pid), shared_memory=shared_memory(pid))


def own(spec: CapsuleSpec) -> CapsuleSpec:
    """Return the specification of a capsule where this process is: perhaps a container, whose limits are the job's."""
    shm = PurePath(HIDDEN).parent
    size = shared_memory(os.getpid()) if os.path.ismount(shm) else 0
    if spec.user_namespace:  # whose /proc the kernel refuses where another one is masked
        return replace(spec, shared_memory=size)
    return replace(spec, masks=masks.of(), shared_memory=size)


def shared_memory(pid: int) -> int:
    """Return the size of a process's /dev/shm in bytes, 0 if it has none. Raises OSError: it is gone."""
    status = os.statvfs(f"/proc/{pid}/root{PurePath(HIDDEN).parent}")
    return status.f_blocks * status.f_frsize


def furnished(pid: int) -> bool:
    """Tell whether an agent has furnished the container of process `pid`. Raises OSError: it is gone."""
    return Path(f"/proc/{pid}/root{HIDDEN}/bin").is_dir()


class ContainerCapsule(Capsule):
    """The first incarnation's: the container of a shim, with an agent in it.

    PIDs "inside" are those that this process sees: the PID namespace is shared. When this process dies the agent goes
    and the job runs on; `leave` does the same on purpose. What whoever comes next needs, to go on with the job as if
    nothing had been, the shim keeps: the job's pipes, and what is known of its changes to files.

    Args:
        spec: what to put on /dev/shm; `CapsuleSpec.enter` and the like are filled in here.
        shim: of the container; `root_pid` is that of the job root it runs already, if it does, else 0 until
            `start_root`.
        callbacks: see `Callbacks`; `exited` is told of the job root alone, by the shim; `gone` when no process of the
            job lives, which the death of the shim or of the agent brings about.
        again: go on with what an earlier sidecar has begun here: see `follow`.
    """

    def __init__(self, spec: CapsuleSpec, shim: Shim, callbacks: Callbacks, *, again: bool = False) -> None:
        super().__init__(
            replace(
                spec,
                enter=shim.pid,
                agent=True,
                furnished=shim.root_pid is not None,
                detach=shim.root_pid is None and furnished(shim.pid),
                shared_memory=shared_memory(shim.pid),
            ),
            callbacks,
        )
        self.root_pid = shim.root_pid or 0
        self._shim = shim
        self._namespace = mount_namespace(shim.pid)
        self._again = again
        kept = shim.hello.kept if again else {}
        self._watching = {name: kept[name] for name in (EVENTS, UNWRITTEN) if name in kept}
        self._left = False
        self._ending = threading.Lock()

    def start(self) -> None:
        """Start the agent. Call from the main thread: it ends with the thread that made it.

        Raises:
            PermissionMissingError, MissingFeatureError: the kernel refused a namespace or a mount.
        """
        super().start()
        if not self._again:
            self._shim.on_exit(self._root_exited)
        self._shim.on_lost(self.destroy)

    def watch(self, events: int, log: int, batch: int = -1, former: int = 0) -> None:
        """Have the agent read a fanotify group that, with `batch`, outlives this process. Raises OSError."""
        if batch >= 0:
            super().watch(events, log, batch, former)
            return
        batch = os.memfd_create("ckptrun-batch", os.MFD_CLOEXEC)
        try:
            os.posix_fallocate(batch, 0, BATCH)
            super().watch(events, log, batch)
        except OSError:
            os.close(batch)
            raise
        self._watching = {EVENTS: os.dup(events), UNWRITTEN: batch}

    def start_root(self, program: Program, keep: Mapping[str, int] | None = None) -> int:
        """Have the shim start the job root; return its PID. Raises OSError: see `Shim.start`."""
        kept = {**(keep or {}), **self._watching}
        try:
            self.root_pid = self._shim.start(replace(program, identity=None, last_pid=0), kept)
        finally:
            self._forget()
        return self.root_pid

    @property
    def kept(self) -> Mapping[str, int]:
        """What the shim has kept of the sidecar before: its pipes' reading ends by name, `EVENTS`, `UNWRITTEN`."""
        return self._shim.hello.kept if self._again else {}

    def follow(self) -> int:
        """Begin to serve the job root that the sidecar before has started: its end is told, at once if it is over."""
        self._forget()
        root = self._shim.root_pid or 0
        self._shim.on_exit(self._root_exited)
        return root

    def part(self) -> None:
        """Have the shim keep nothing: a queue that nobody reads, or a pipe that would never be found broken."""
        with contextlib.suppress(OSError):
            self._shim.keep({})

    def _forget(self) -> None:
        """Close this process's own copies of what the shim keeps."""
        watching, self._watching = self._watching, {}
        for fd in watching.values():
            os.close(fd)

    @property
    def top_pid(self) -> int:
        """The shim's: it adopts whatever of the job is left behind."""
        return self._shim.pid

    def next_helper_pid(self) -> int:
        """Return 0: a program of ckptrun's own takes whichever PID is next."""
        return 0

    def clear(self) -> None:
        """End every process of the job. Raises OSError: some would not end."""
        self._end_job()

    def host_pids(self) -> list[int]:
        """Return the PIDs of the job's processes and of what the agent has started."""
        agents = [] if self._reaped or not self.init_pid else descendants(self.init_pid)
        return [*self._job(), *agents]

    def strays(self, root_pid: int = 0) -> list[int]:
        """Return nothing: the job root is a subreaper from its first moment."""
        del root_pid
        return []

    def host_pid(self, inside: int) -> int | None:
        """Return `inside` itself if it is there."""
        return inside if inside in self.host_pids() else None

    def destroy(self) -> None:
        """End every process of the job and the agent; returns when they are gone."""
        with self._ending:
            if not self._left:
                with contextlib.suppress(OSError):
                    self._end_job()
        super().destroy()

    def leave(self) -> None:
        """End the agent and let the job run on; `Callbacks.gone` is called all the same."""
        self._left = True
        super().destroy()

    def _job(self) -> list[int]:
        """Return the PIDs of the job's processes; the shim has adopted those whose parents have ended.

        Without a shim nobody has: then it is every process of the container's.
        """
        own = {self.init_pid, os.getpid(), *(descendants(self.init_pid) if self.init_pid else [])}
        if self._shim.ended.is_set():
            return [pid for pid in in_mount_namespace(self._namespace) if pid not in own]
        found = []
        for pid in descendants(self._shim.pid):
            with contextlib.suppress(OSError):
                if pid not in own and mount_namespace(pid) == self._namespace:
                    found.append(pid)
        return found

    def _end_job(self) -> None:
        deadline = time.monotonic() + END_SECONDS
        while left := self._job():
            if time.monotonic() > deadline:
                raise OSError(errno.EBUSY, f"the job's processes do not end: {left}")
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(CLEAR_PAUSE)

    def _exited(self, pid: int, status: int) -> None:
        """Take the end of a program of ckptrun's own."""
        with self._lock:
            running = self._running.pop(pid, None)
        if running:
            running.end(status)

    def _root_exited(self, pid: int, status: int) -> None:
        self.root_pid = pid
        self._callbacks.exited(pid, status)

    def _end(self) -> None:
        """Take the end of the agent: nobody serves the job any more."""
        self._forget()
        if not self._left:
            with contextlib.suppress(OSError):
                self._end_job()
            self.part()
        super()._end()
