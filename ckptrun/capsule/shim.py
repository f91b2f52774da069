"""The sidecar's end of the shim's socket: who has connected, as whom and with what it runs, and what it is told.

The shim is the main process of the job's container (`stub/shim.c`; docs/design/kubernetes.md has the messages). What
comes through the socket is the word of an unprivileged process that may lie: who it is, the kernel says, and it gets
nothing done that it could not do itself.

`listener` takes the connections; a shim's thread turns its messages into answers and callbacks, which run in that
thread and must only enqueue. A connection ends with the shim: it is `lost`, and the next shim, in a restarted
container, is another `Shim`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import select
import signal
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptrun.capsule import hello
from ckptrun.capsule import spec as specs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ckptrun.capsule.hello import Hello

START_SECONDS = 30.0
"""What a shim may take to raise the PIDs and start the job root."""
HELLO_SECONDS = 5.0
"""What a connection may take to say who it is."""
_MESSAGE = 4096
_FILTERED = 2


def _nothing(*_: object) -> None:
    pass


@dataclass(frozen=True, slots=True)
class ShimCallbacks:
    """Whom to tell; called from the shim's thread, and only once `Shim.serve` was called."""

    signalled: Callable[[int], None]
    """The container was sent this signal."""
    lost: Callable[[], None]
    """The shim is gone, and with it the job's container: killed as a whole, or ended after `Shim.end`."""


class Shim:
    """One shim that has connected, and through it its container.

    Args:
        connection: the socket; it is this object's from now on.
        pid: the shim's, by the kernel's word, as this process counts.
        said: its hello.
    """

    def __init__(self, connection: socket.socket, pid: int, said: Hello) -> None:
        self.pid = pid
        self.hello = said
        self.root_pid = said.root_pid
        """The job root that it has started, while that runs."""
        self.ended: threading.Event = threading.Event()
        """The connection has ended."""
        status = hello.status_of(pid)
        self.identity = specs.Identity(status["Uid"][1], status["Gid"][1], tuple(status["Groups"]))
        """Whom everything in the container runs as."""
        self.no_new_privs = bool(status["NoNewPrivs"][0])
        """Whether the job may be given a filter: see `Program.deny_io_uring`. Without it the shim cannot."""
        self.filtered = status["Seccomp"][0] == _FILTERED
        """Whether the container has a seccomp filter."""
        self._connection = connection
        self._tokens = itertools.count(1)
        self._answers: dict[str, queue.SimpleQueue[list[str]]] = {}
        self._callbacks = ShimCallbacks(_nothing, _nothing)
        self._exited: Callable[[int, int], None] = _nothing
        self._lost: Callable[[], None] = _nothing
        self._lock = threading.Lock()
        self._told = threading.Condition(self._lock)
        self._exit = None if said.ended is None else (0, said.ended)
        self._reader = threading.Thread(target=self._read, name="shim", daemon=True)

    def serve(self, callbacks: ShimCallbacks) -> None:
        """Begin to take its messages."""
        self._callbacks = callbacks
        self._reader.start()

    def on_exit(self, exited: Callable[[int, int], None]) -> None:
        """Have someone told the job root's PID and wait status: at once, if it has ended unreported already."""
        with self._lock:
            self._exited = exited
            known = self._exit
        if known is not None:
            exited(*known)

    def on_lost(self, lost: Callable[[], None]) -> None:
        """Have someone told, before `ShimCallbacks.lost`, that the shim is gone: at once, if it is already."""
        with self._lock:
            self._lost = lost
        if self.ended.is_set():
            lost()

    def start(self, program: specs.Program, keep: Mapping[str, int] | None = None) -> int:
        """Have it start the job root, as its own child; return its PID, which is past 1000.

        Args:
            program: credentials, PID and counter in it are of no effect: it runs as the container does.
            keep: descriptors by name that the shim holds open, for the next sidecar, in place of those before.

        Raises:
            OSError: it could not be started (`filename` names the stage), or the shim is gone.
        """
        kept = dict(keep or {})
        fds = program.passed()
        token = str(next(self._tokens))
        spec_fd = specs.to_file([*program.words(), *hello.kept_words(kept)])
        try:
            answer = self._ask(token, f"start {token} {len(fds)}", [spec_fd, *fds, *kept.values()])
        finally:
            os.close(spec_fd)
        if answer[0] == "failed":
            number = int(answer[2])
            raise OSError(number, os.strerror(number), answer[3])
        pid = int(answer[2])
        if not hello.is_child(pid, self.pid) and not self._has_ended(pid):
            raise OSError(0, f"the shim names process {pid} as the job's, which is none of its own")
        return pid

    def keep(self, keep: Mapping[str, int]) -> None:
        """Have it hold these descriptors open, for the next sidecar, and none of those before. Raises OSError."""
        spec_fd = specs.to_file(hello.kept_words(keep))
        try:
            socket.send_fds(self._connection, [b"keep"], [spec_fd, *keep.values()])
        finally:
            os.close(spec_fd)

    def taken(self) -> None:
        """Acknowledge the job root's end, once it cannot be forgotten any more."""
        with self._lock:
            self._exit = None
        with contextlib.suppress(OSError):
            self._connection.send(b"taken")

    def end(self, code: int) -> None:
        """Have it, and so the container, exit with a code."""
        with contextlib.suppress(OSError):
            self._connection.send(f"end {code}".encode())

    def close(self) -> None:
        """End the connection; a shim that lives connects again, to whoever listens then."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        if not self._reader.is_alive():
            self._connection.close()

    @property
    def connected(self) -> bool:
        """Whether the other end is there."""
        poll = select.poll()
        try:
            poll.register(self._connection, select.POLLRDHUP)
        except (OSError, ValueError):
            return False
        return not self.ended.is_set() and not poll.poll(0)

    def _ask(self, token: str, message: str, fds: Sequence[int]) -> list[str]:
        answers = self._answers[token] = queue.SimpleQueue()
        socket.send_fds(self._connection, [message.encode()], list(fds))
        if self.ended.is_set():
            answers.put([])
        try:
            answer = answers.get(timeout=START_SECONDS)
        except queue.Empty:
            answer = []
        self._answers.pop(token, None)
        if not answer:
            raise OSError(0, "the shim is gone, or does not answer")
        return answer

    def _has_ended(self, pid: int) -> bool:
        """Tell whether a job root has ended already; its end may be about to be told."""
        with self._lock:
            return self._told.wait_for(lambda: self._exit is not None and self._exit[0] == pid, HELLO_SECONDS)

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while line := self._connection.recv(_MESSAGE):
                self._report(line.decode(errors="replace").split(" "))
        self.ended.set()
        self._connection.close()
        for answers in list(self._answers.values()):
            answers.put([])
        with self._lock:
            lost = self._lost
        lost()
        self._callbacks.lost()

    def _report(self, words: list[str]) -> None:
        match words:
            case ["spawned", token, pid]:
                self.root_pid = int(pid)
                self._answer(token, words)
            case ["failed", token, number, *_]:
                int(number)
                self._answer(token, [*words, "start"])
            case ["exit", pid, status]:
                with self._lock:
                    self.root_pid = None
                    self._exit = int(pid), int(status)
                    exited = self._exited
                    self._told.notify_all()
                exited(int(pid), int(status))
            case ["signal", number]:
                self._callbacks.signalled(int(signal.Signals(int(number))))

    def _answer(self, token: str, words: list[str]) -> None:
        if (answers := self._answers.get(token)) is not None:
            answers.put(words)
