"""Runs one hook as a process, within bounds: it may hang, flood, die or leave a daemon; the caller goes on in time.

Called by `phases` in worker threads; several calls may run at once. It knows processes and pipes; what a result
means is `contract`'s.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from ckptrun.core.restart import describe
from ckptrun.hooking.contract import Outcome, Result

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STDOUT_BYTES = 1 << 20
"""A result larger than this is a failure; the rest is read and dropped, so that the hook does not block."""
STDERR_BYTES = 64 << 10
"""The end of standard error that is kept."""
KILL_SECONDS = 2.0
"""What a hook that is told to end (SIGTERM) may still do."""
LEFTOVER_BYTES = 2 << 20
"""At its end, what is in its pipes is read, up to this: a daemon that it left behind may write for ever."""
RETRY_CODE = 75
_PIECE = 1 << 16


@dataclass(frozen=True, slots=True)
class Call:
    """One process to run.

    Args:
        argv: program and arguments.
        cwd: where.
        environment: all of it.
        stdin: what it reads.
        timeout: seconds it may take.
    """

    argv: Sequence[str]
    cwd: str
    environment: Mapping[str, str]
    stdin: bytes
    timeout: float


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended: exit code or negative signal, what it wrote, and seconds it took."""

    code: int
    stdout: bytes
    stderr: str
    seconds: float
    timed_out: bool = False

    @property
    def flooded(self) -> bool:
        """Whether it wrote more than a result may have."""
        return len(self.stdout) > STDOUT_BYTES

    @property
    def last_line(self) -> str:
        """The last line of standard error that is not blank."""
        return next((line.strip() for line in reversed(self.stderr.splitlines()) if line.strip()), "")


def run(launcher: Sequence[str], call: Call) -> Ended:
    """Run a process to its end, or to the end of its time.

    Args:
        launcher: what starts it: a command line that the hook's is appended to. See `ckptrun.capsule.stub`, hook.c.
        call: what to run.
    """
    began = time.monotonic()
    try:
        process = subprocess.Popen(
            [*launcher, *call.argv],
            cwd=call.cwd,
            env=dict(call.environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:  # ValueError: a NUL byte
        return Ended(126, b"", f"{call.argv[0]} cannot be started in {call.cwd}: {error}", 0.0)
    with _Watched(process, call.stdin) as watched:
        timed_out = not watched.until_end(began + call.timeout)
        if timed_out:
            watched.signal(signal.SIGTERM)
            watched.until_end(time.monotonic() + KILL_SECONDS)
            watched.signal(signal.SIGKILL)
            if not watched.until_end(
                time.monotonic() + KILL_SECONDS
            ):  # stuck in the kernel: nobody can end it
                return Ended(-signal.SIGKILL, b"", _text(watched.stderr), time.monotonic() - began, timed_out)
        watched.read_leftovers()
        code = process.wait()  # not before: until then its number, and its group's, is nobody else's
    return Ended(code, bytes(watched.stdout), _text(watched.stderr), time.monotonic() - began, timed_out)


def judge(ended: Ended, timeout: float) -> Result:
    """Return what a hook's end means: its result, its exit code, or what it did wrong.

    The exit code has the last word: 0 lets the result speak, 75 is ``retry``, any other ``failed``.
    """
    if cut_short := _cut_short(ended, timeout):
        return Result(Outcome.FAILED, reason=cut_short)
    try:
        result = Result.from_bytes(ended.stdout)
    except ValueError as error:
        if ended.code == 0:
            return Result(Outcome.FAILED, reason=str(error))
        result = Result()
    if ended.code == 0:
        return result
    if ended.code == RETRY_CODE:
        reason = result.reason or ended.last_line
        return Result(
            Outcome.RETRY, result.retry_after, reason, events=result.events, released=result.released
        )
    reason = result.reason or ended.last_line or f"exit code {ended.code}"
    return Result(Outcome.FAILED, reason=reason, events=result.events)


def _cut_short(ended: Ended, timeout: float) -> str:
    """Return why nothing that it wrote counts; "" if it does."""
    if ended.timed_out:
        return f"it did not end within {timeout:g} s and was killed"
    if ended.flooded:
        return f"it wrote more than {STDOUT_BYTES >> 20} MiB to standard output"
    if ended.code < 0:
        last = f": {ended.last_line}" if ended.last_line else ""
        return f"it died of {describe(None, -ended.code)}{last}"
    return ""


def _text(stderr: bytearray) -> str:
    return stderr.decode("utf-8", "backslashreplace")


class _Watched:
    """A process of ours with three pipes, none of which may block us."""

    def __init__(self, process: subprocess.Popen[bytes], stdin: bytes) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._stdin, self._out, self._err = process.stdin, process.stdout, process.stderr
        self._unwritten = memoryview(stdin)
        try:
            self._selector = selectors.DefaultSelector()
            self._pidfd = os.pidfd_open(process.pid)
        except OSError:
            process.kill()
            process.wait()
            raise
        self.stdout = bytearray()
        self.stderr = bytearray()

    def __enter__(self) -> Self:
        for pipe, events in (
            (self._stdin, selectors.EVENT_WRITE),
            (self._out, selectors.EVENT_READ),
            (self._err, selectors.EVENT_READ),
        ):
            os.set_blocking(pipe.fileno(), False)
            self._selector.register(pipe, events)
        self._selector.register(self._pidfd, selectors.EVENT_READ)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:  # whatever failed here, nothing is left behind
            self.signal(signal.SIGKILL)
            self._process.wait()
        self._selector.close()
        os.close(self._pidfd)
        for pipe in (self._stdin, self._out, self._err):
            with contextlib.suppress(OSError):
                pipe.close()

    def until_end(self, deadline: float) -> bool:
        """Serve the pipes until the process has ended; False if it has not by then (monotonic seconds)."""
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            ready = [key.fileobj for key, _ in self._selector.select(left)]
            for pipe in ready:
                if pipe is self._stdin:
                    self._write()
                elif pipe is self._out or pipe is self._err:
                    self._read(pipe)
            if self._pidfd in ready:
                return True

    def read_leftovers(self) -> None:
        """Take what the ended process has left in its pipes; whoever still holds them is not waited for."""
        for pipe in (self._out, self._err):
            for _ in range(LEFTOVER_BYTES // _PIECE):
                if not self._read(pipe):
                    break

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
            self._unwritten = self._unwritten[:0]
        if not self._unwritten:
            self._selector.unregister(self._stdin)
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
