"""One capsule: made by the main thread, driven through init's control socket, ended by killing init.

Called by the supervisor. A reader thread turns init's reports into answers and callbacks; callbacks run in that
thread and must only enqueue.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import signal
import socket
import subprocess
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptrun.capsule import spec as specs
from ckptrun.capsule.processes import children, descendants, pid_inside
from ckptrun.capsule.refusals import explain
from ckptrun.capsule.running import Running

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

START_SECONDS = 10.0
END_SECONDS = 5.0
"""What init may take to end by itself; then it is killed."""
CLEAR_PAUSE = 0.002
"""Seconds between two looks whether killed processes have gone."""
FIRST_HELPER_PID, LAST_HELPER_PID = 2, 299
"""PIDs inside the capsule that ckptrun's own programs take."""
ROOT_PID = 1000
"""PID of the job root inside a capsule that a job was started in; a restored root has the PID of its checkpoint."""


@dataclass(frozen=True, slots=True)
class Tree:
    """How the job's tree begins, in PIDs as the job counts.

    Args:
        root: the job root.
        first: the user's command, the root's first child.
    """

    root: int = ROOT_PID
    first: int = ROOT_PID + 1


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Whom to tell; called from the reader thread."""

    exited: Callable[[int, int], None]
    """PID inside the capsule and its wait status, for every process init reaps."""
    stopped: Callable[[int], None]
    """PID inside the capsule of a child of init that was stopped by a signal."""
    gone: Callable[[], None]
    """The capsule has ended, every process in it included."""


class Capsule:
    """A PID and mount namespace with the helper's init in it."""

    def __init__(self, spec: specs.CapsuleSpec, callbacks: Callbacks) -> None:
        self._spec = spec
        self._callbacks = callbacks
        self._lock = threading.Lock()
        self._tokens = itertools.count(1)
        self._helper_pids = itertools.cycle(range(FIRST_HELPER_PID, LAST_HELPER_PID + 1))
        self._answers: dict[str, tuple[threading.Event, list[str]]] = {}
        self._running: dict[int, Running] = {}
        self._spawned: dict[str, Running] = {}
        self._ready = False
        self._started = threading.Event()
        self._failure = ""
        self.init_pid = 0
        self._reaped = False
        self._control: socket.socket
        self._reader: threading.Thread | None = None
        self._forces: list[threading.Timer] = []

    def start(self) -> None:
        """Make the capsule. Call from the main thread: init dies with the thread that made it.

        Raises:
            PermissionMissingError, MissingFeatureError: the kernel refused a namespace or a mount.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control = ours
        spec_fd = specs.to_file(self._spec.words())
        try:
            outer = subprocess.Popen(
                [str(self._spec.helper.path), "capsule", str(theirs.fileno()), str(spec_fd)],
                pass_fds=(theirs.fileno(), spec_fd),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        finally:
            os.close(spec_fd)
            theirs.close()
        self._reader = threading.Thread(target=self._read, name="capsule", daemon=True)
        self._reader.start()
        outer.wait()
        answered = self._started.wait(START_SECONDS)
        if not answered or self._failure:
            failure = self._failure or "no answer from init"
            self.destroy()
            raise explain(failure)

    def spawn(self, program: specs.Program) -> Running:
        """Start a program; any thread.

        Raises:
            OSError: it could not be started; `filename` names the stage that failed.
        """
        spec_fd = specs.to_file(program.words())
        try:
            answer = self._ask("spawn", [spec_fd, *program.passed()])
        finally:
            os.close(spec_fd)
        if answer[0] == "failed":
            number = int(answer[2])
            raise OSError(number, os.strerror(number), answer[3])
        return self._spawned.pop(answer[1])

    def start_root(self, program: specs.Program, keep: Mapping[str, int] | None = None) -> int:
        """Start a fresh job root; return its PID inside.

        Args:
            program: the role `root` of the helper, and the job's command.
            keep: descriptors by name that are to outlive this process, where that is possible: not here.

        Raises:
            OSError: see `spawn`.
        """
        del keep  # with this process the capsule ends too
        return self.spawn(replace(program, last_pid=ROOT_PID - 1)).pid

    @property
    def kept(self) -> Mapping[str, int]:
        """Descriptors that have outlived the process before this one, which began what runs in here: none."""
        return {}

    def follow(self) -> int:
        """Begin to serve a job root that runs already, or has ended; return its PID inside, 0 if it has ended.

        Raises:
            OSError: there is none in a capsule of this process's own.
        """
        raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))

    def part(self) -> None:
        """Keep no descriptors any more: what begins now ends with this process."""

    def watch(self, events: int, log: int, batch: int = -1, former: int = 0) -> None:
        """Have init read a fanotify group and append the job's events to a log; all are duplicated.

        Args:
            events: the group.
            log: the file.
            batch: `BATCH` bytes of memory for what is read and not yet written down; -1: init's own.
            former: PID of a supervisor that had it watched before and was killed; 0: none.

        Raises:
            OSError: it cannot.
        """
        self._synced(self._ask("watch", [events, log] if batch < 0 else [events, log, batch], f" {former}"))

    def sync(self) -> None:
        """Return when everything that has happened so far is in the log. Raises OSError."""
        self._synced(self._ask("sync", []))

    def _synced(self, answer: list[str]) -> None:
        if number := int(answer[2]):
            raise OSError(number, os.strerror(number), "init")

    def _ask(self, command: str, fds: list[int], more: str = "") -> list[str]:
        """Have init do something and return the words of its answer. Raises OSError."""
        token = str(next(self._tokens))
        done = threading.Event()
        answer: list[str] = []
        self._answers[token] = (done, answer)
        socket.send_fds(self._control, [f"{command} {token}{more}".encode()], fds)
        if not done.wait(START_SECONDS) or not answer:
            raise OSError(0, "the capsule is gone")
        return answer

    def next_helper_pid(self) -> int:
        """Return a PID for a program of ckptrun's own."""
        return next(self._helper_pids)

    def kill(self, pid: int, sig: int) -> None:
        """Send a signal to a PID inside the capsule (negative: a process group)."""
        with contextlib.suppress(OSError):
            self._control.send(f"kill {pid} {sig}".encode())

    def clear(self) -> None:
        """End every process of the job, and return when what init said of their ends has been passed on.

        Raises:
            OSError: some would not end, or the capsule is gone.
        """
        deadline = time.monotonic() + END_SECONDS
        while left := [p for p in map(pid_inside, self.host_pids()) if p and p > LAST_HELPER_PID]:
            if time.monotonic() > deadline:
                raise OSError(errno.EBUSY, f"the failed restore's processes do not end: {left}")
            for pid in left:
                self.kill(pid, signal.SIGKILL)
            time.sleep(CLEAR_PAUSE)
        self._ask("sync", [])  # init has reported what it reaped before it answers

    def host_pids(self) -> list[int]:
        """Return the PIDs, as this process sees them, of everything under init."""
        return [] if self._reaped or not self.init_pid else descendants(self.init_pid)

    @property
    def top_pid(self) -> int:
        """PID, as this process sees it, of what every process of the job is below."""
        return self.init_pid

    def job_pids(self, root_pid: int = ROOT_PID) -> list[int]:
        """Return the PIDs, as this process sees them, of the job root and all below it, the root first."""
        root = self.host_pid(root_pid)
        return [] if root is None else [root, *descendants(root)]

    def strays(self, root_pid: int = ROOT_PID) -> list[int]:
        """Return the PIDs inside of processes of the job that are no longer below its root: no dump would hold them.

        CRIU makes them at a restore, of daemons whose session leader has ended.
        """
        inside = [] if self._reaped or not self.init_pid else map(pid_inside, children(self.init_pid))
        return sorted(pid for pid in inside if pid and pid > LAST_HELPER_PID and pid != root_pid)

    def host_pid(self, inside: int) -> int | None:
        """Return the PID as this process sees it of PID `inside` of the capsule."""
        return next((pid for pid in self.host_pids() if pid_inside(pid) == inside), None)

    def destroy(self) -> None:
        """End the capsule and every process in it; returns when they are gone."""
        with contextlib.suppress(OSError):
            # Init kills everything, writes down what the job had done to files, and ends; what it says is still read.
            self._control.shutdown(socket.SHUT_WR)
        force = threading.Timer(END_SECONDS, self._kill)
        force.daemon = True
        self._forces.append(force)
        force.start()
        if self._reader and self._reader is not threading.current_thread():
            self._reader.join(START_SECONDS + END_SECONDS)
            force.cancel()
            force.join()

    def _kill(self) -> None:
        """End an init that did not do it itself."""
        with self._lock:  # once reaped, the number may be another process's
            if self.init_pid and not self._reaped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.init_pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)

    def _read(self) -> None:
        while True:
            try:
                line = self._control.recv(1024)
            except OSError:
                break
            if not line:
                break
            self._report(line.decode(errors="replace").split(" "))
        self._end()

    def _report(self, words: list[str]) -> None:
        match words:
            case ["init", pid]:
                self.init_pid = int(pid)
                if self._ready:
                    self._started.set()
            case ["ready"]:
                self._ready = True
                if self.init_pid:
                    self._started.set()
            case ["failed", "0", *rest]:
                self._failure = " ".join(rest)
                self._started.set()
            case ["spawned", token, pid]:
                with self._lock:
                    self._spawned[token] = self._running[int(pid)] = Running(int(pid), self.kill)
                self._answer(token, words)
            case ["failed" | "synced", token, *_]:
                self._answer(token, words)
            case ["exit", pid, status]:
                self._exited(int(pid), int(status))
            case ["stop", pid]:
                self._callbacks.stopped(int(pid))

    def _answer(self, token: str, words: list[str]) -> None:
        done, answer = self._answers.pop(token)
        answer += words
        done.set()

    def _exited(self, pid: int, status: int) -> None:
        with self._lock:
            running = self._running.pop(pid, None)
        if running:
            running.end(status)
        self._callbacks.exited(pid, status)

    def _end(self) -> None:
        if self.init_pid:
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self.init_pid, os.WEXITED | os.WNOWAIT)
            with self._lock, contextlib.suppress(ChildProcessError):
                self._reaped = True
                os.waitpid(self.init_pid, 0)
        if not self._failure and not self._started.is_set():
            self._failure = "0 init ended"
        for force in list(self._forces):
            force.cancel()
        self._started.set()
        self._control.close()
        for done, _ in list(self._answers.values()):
            done.set()
        with self._lock:
            leftovers = list(self._running.values())
        for running in leftovers:
            running.end(signal.SIGKILL)
        self._callbacks.gone()
