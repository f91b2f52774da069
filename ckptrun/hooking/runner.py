"""Runs one hook as a process, within bounds: it may hang, flood, die or leave a daemon; the caller goes on in time.

Called by `phases` in worker threads; several calls may run at once. What a result means is `contract`'s.
"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptrun.core.restart import describe
from ckptrun.hooking.contract import Outcome
from ckptrun.hooking.pipes import STDOUT_BYTES, Piped
from ckptrun.hooking.result import Result

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RETRY_CODE = 75


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
        piped = Piped([*launcher, *call.argv], call.cwd, call.environment)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte
        return not_started(call, error)
    with piped as process:
        process.give(call.stdin, last=True)
        return finished(process, began, timed_out=not process.serve(began + call.timeout))


def not_started(call: Call, error: Exception) -> Ended:
    """Return what it comes to that a process cannot be started."""
    return Ended(126, b"", f"{call.argv[0]} cannot be started in {call.cwd}: {error}", 0.0)


def finished(process: Piped, began: float, *, timed_out: bool) -> Ended:
    """Return how a process has ended; one that has not is ended."""
    if not process.has_ended() and not process.end():
        return Ended(-signal.SIGKILL, b"", process.said(), time.monotonic() - began, timed_out)
    process.read_leftovers()
    code = process.code()
    return Ended(code, bytes(process.stdout), process.said(), time.monotonic() - began, timed_out)


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
