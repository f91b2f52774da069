"""A process of ours and its three pipes, none of which may block us: it may hang, flood, or leave its pipes to others.

Used by `runner`, for a process that does one thing, and by `staying`, for one that is asked several times.
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

STDOUT_BYTES = 1 << 20
"""A result larger than this is a failure; the rest is read and dropped, so that the hook does not block."""
STDERR_BYTES = 64 << 10
"""The end of standard error that is kept."""
KILL_SECONDS = 2.0
"""What a hook that is told to end (SIGTERM) may still do."""
LEFTOVER_BYTES = 2 << 20
"""At its end, what is in its pipes is read, up to this: a daemon that it left behind may write for ever."""
_PIECE = 1 << 16


def never() -> bool:
    """Return that it is not enough yet."""
    return False


class Piped:
    """A process with pipes for standard input, output and error.

    Args:
        argv: program and arguments.
        cwd: where.
        environment: all of it.

    Raises:
        OSError: it cannot be started, or not be watched.
        ValueError: a word has a NUL byte.
    """

    def __init__(self, argv: Sequence[str], cwd: str, environment: Mapping[str, str]) -> None:
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._stdin, self._out, self._err = process.stdin, process.stdout, process.stderr
        self._unwritten = memoryview(b"")
        self._last = False
        self.stdout = bytearray()
        self.stderr = bytearray()
        try:
            self._selector = selectors.DefaultSelector()
            self._pidfd = os.pidfd_open(process.pid)
        except OSError:
            process.kill()
            process.wait()
            raise
        for pipe in (self._stdin, self._out, self._err):
            os.set_blocking(pipe.fileno(), False)
        for file in (self._out, self._err, self._pidfd):
            self._selector.register(file, selectors.EVENT_READ)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:  # whatever failed here, nothing is left behind
            self.signal(signal.SIGKILL)
            self._process.wait()
        self.close()

    def close(self) -> None:
        """Let go of the pipes; whether it has ended is not looked at."""
        self._selector.close()
        os.close(self._pidfd)
        for pipe in (self._stdin, self._out, self._err):
            with contextlib.suppress(OSError):
                pipe.close()

    def give(self, data: bytes, *, last: bool) -> None:
        """Have it read this from now on, and after the `last` of it the end of its input."""
        self._unwritten, self._last = memoryview(bytes(self._unwritten) + data), last
        if not self._stdin.closed:
            with contextlib.suppress(KeyError):
                self._selector.unregister(self._stdin)
            self._selector.register(self._stdin, selectors.EVENT_WRITE)

    def serve(self, deadline: float, enough: Callable[[], bool] = never) -> bool:
        """Serve the pipes until the process has ended; return whether it has.

        Args:
            deadline: monotonic seconds, after which it is not waited for.
            enough: asked after each piece; true ends the waiting, too.
        """
        while not enough():
            left = deadline - time.monotonic()
            if left <= 0:
                break
            ready = [key.fileobj for key, _ in self._selector.select(left)]
            for pipe in ready:
                if pipe is self._stdin:
                    self._write()
                elif pipe is self._out or pipe is self._err:
                    self._read(pipe)
            if self._pidfd in ready:
                return True
        return False

    def has_ended(self) -> bool:
        """Whether it runs no more."""
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        return bool(poller.poll(0))

    def end(self) -> bool:
        """End it, first kindly; return whether it has ended: one that is stuck in the kernel, nobody can."""
        self.signal(signal.SIGTERM)
        self.serve(time.monotonic() + KILL_SECONDS)
        self.signal(signal.SIGKILL)
        return self.serve(time.monotonic() + KILL_SECONDS)

    def code(self) -> int:
        """Return how it has ended; until this is asked its number, and its group's, is nobody else's."""
        return self._process.wait()

    def read_leftovers(self) -> None:
        """Take what the ended process has left in its pipes; whoever still holds them is not waited for."""
        for pipe in (self._out, self._err):
            for _ in range(LEFTOVER_BYTES // _PIECE):
                if not self._read(pipe):
                    break

    def said(self) -> str:
        """Return the end of its standard error."""
        return self.stderr.decode("utf-8", "backslashreplace")

    def signal(self, signum: int) -> None:
        """Send a signal to the process and all of its group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signum)

    def _write(self) -> None:
        try:
            self._unwritten = self._unwritten[os.write(self._stdin.fileno(), self._unwritten[:_PIECE]) :]
        except BlockingIOError:
            return
        except OSError:  # it does not read: its business
            self._unwritten, self._last = self._unwritten[:0], True
        if not self._unwritten:
            self._selector.unregister(self._stdin)
            if self._last:
                self._stdin.close()

    def _read(self, pipe: object) -> bool:
        """Take what is there; return whether there may be more."""
        stream = self._out if pipe is self._out else self._err
        if stream.closed:
            return False
        try:
            data = os.read(stream.fileno(), _PIECE)
        except BlockingIOError:
            return False
        if not data:
            self._selector.unregister(stream)
            stream.close()
            return False
        if stream is self._err:
            self.stderr += data
            del self.stderr[:-STDERR_BYTES]
        elif len(self.stdout) <= STDOUT_BYTES:
            self.stdout += data
            del self.stdout[STDOUT_BYTES + 1 :]
        return True
