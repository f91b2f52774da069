"""Makes one dump into staging.

Called by the supervisor's worker threads. CRIU is started through a `Spawn` callable (it must run inside the capsule);
what happens inside the freeze is the caller's `frozen` callback. A dump leaves its log in the folder it was given, and
turns a failure into one sentence with `remedies`.
"""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptrun.criu import engine, remedies
from ckptrun.criu.capture import Capture
from ckptrun.criu.postdump import ACTION_SOCKET, PostDump
from ckptrun.errors import DumpError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ckptrun.criu.engine import Place, Process, Spawn
    from ckptrun.criu.remedies import Finding
    from ckptrun.criu.staging import Extents, Slot

COLLECT_SECONDS = 30
"""CRIU's --timeout: for collecting the tree; 10 s by default is too little for thousands of processes."""
WATCH_SECONDS = 0.5
"""How often a dump looks whether the job still lives."""
GHOST_LIMIT = 1 << 30
"""Bytes an unlinked open file may have; CRIU's own default of 1 MiB is a trap."""


@dataclass(slots=True)
class DumpResult:
    """What a dump gave; seconds by the monotonic clock.

    Args:
        images: the image files, in staging.
        frozen_seconds: from the moment CRIU stops the first task to the moment it lets them go.
    """

    images: dict[str, Extents]
    frozen_seconds: float


@dataclass(frozen=True, slots=True)
class DumpRequest:
    """One dump to make.

    Args:
        root_pid: PID inside the capsule of the tree's root.
        slot: where the images go.
        external: CRIU's names of what stays outside: ``pipe:[123]``.
        max_freeze: seconds the job may be stopped; counted from CRIU's connection to the capture, just before.
        frozen: called with the images while the tree is stopped; what it raises fails the dump.
        hold: seconds more that `frozen` may take, for a checkpoint after which the job is to be killed.
        flags: options of CRIU's beyond the usual.
        dead: whether the job has died; CRIU may wait for a task that was killed under it until the deadline.
        pids: the job's processes as this machine counts them; they are looked at to name a culprit.
        retrying: told why, before a failed dump is tried again.
    """

    root_pid: int
    slot: Slot
    external: Sequence[str]
    max_freeze: float
    frozen: Callable[[dict[str, Extents]], None]
    hold: float = 0.0
    flags: tuple[str, ...] = ()
    dead: Callable[[], bool] = lambda: False
    pids: Callable[[], Sequence[int]] = lambda: ()
    retrying: Callable[[str], None] = lambda _: None


class KnownDumpError(DumpError):
    """A dump failed for a reason that the table knows; `DumpRequest.frozen` may raise it, too."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.cause, hint=finding.remedy.remedy)
        self.finding = finding


class BusyError(KnownDumpError):
    """A connection was doing what cannot be saved, twice; without those that wait to be accepted it may do."""


_BUSY = {"tcp-in-flight", "tcp-moving"}


def dump(place: Place, request: DumpRequest, spawn: Spawn) -> DumpResult:
    """Dump the tree and let it run on; try once more where the remedy is one that loses nothing.

    Raises:
        DumpError: it failed or took too long; the job runs on.
    """
    before = request.slot.used
    try:
        return _dump(place, request, spawn)
    except KnownDumpError as error:
        retry = error.finding.remedy.retry
        if retry is None or request.dead():
            raise
        request.retrying(f"{error.finding.cause}; it was tried again {retry}")
    (place.folder / "dump.log").rename(place.folder / "dump-first.log")
    request.slot.used = before
    time.sleep(retry.pause)
    return _dump(place, replace(request, flags=(*request.flags, *retry.flags)), spawn)


def _dump(place: Place, request: DumpRequest, spawn: Spawn) -> DumpResult:
    argv = [*place.common("dump"), "-t", str(request.root_pid), "--leave-running", "--link-remap"]
    argv += ["--ghost-limit", str(GHOST_LIMIT), "--timeout", str(COLLECT_SECONDS), *request.flags]
    for name in request.external:
        argv += ["--external", name]
    patience = (
        request.max_freeze + request.hold + engine.END_SECONDS
    )  # the action's own, should this process be stuck
    env = engine.environment(place) | {
        "CKPTRUN_ACTION_SOCKET": str(place.folder / ACTION_SOCKET),
        "CKPTRUN_ACTION_MILLISECONDS": str(int(patience * 1000)),
    }
    with contextlib.ExitStack() as stack:
        capture = Capture(place.folder, request.slot)
        stack.callback(capture.close)
        action = PostDump(place.folder, capture, request)
        stack.callback(action.close)
        capture.start()
        action.start()
        started = time.monotonic()
        try:
            process = spawn(argv, env, {})
        except OSError as error:
            raise DumpError(f"CRIU could not be started: {error}") from error
        code = _wait_for_dump(process, action, request.dead)
        if code is not None and code < 0:
            process.kill()  # whoever killed it may have left its children
        ended = time.monotonic()
    if code == 0 and action.granted:
        return DumpResult(capture.images, _frozen_seconds(place.folder / "dump.log", ended - started))
    raise _dump_error(place, code, action, request)


def _wait_for_dump(process: Process, action: PostDump, dead: Callable[[], bool]) -> int | None:
    """Wait for CRIU. Past the deadline it is refused and cut off, so that it fails and thaws; then it is killed.

    If the job dies there is nothing left to thaw: CRIU is killed, so that the death is noticed at once.

    The kernel lets the tasks of a killed tracer go, and CRIU's code in them takes itself out when its socket closes.
    But in the milliseconds in which CRIU enters a task, that task may die of SIGTRAP: the job has failed, and is
    restored.
    """
    while (left := action.deadline() - time.monotonic()) > 0:
        code = process.wait(min(left, WATCH_SECONDS))
        if code is not None:
            return code
        if dead():
            process.kill()
            return process.wait(engine.END_SECONDS)
    action.refuse()
    return _end(process)


def _end(process: Process) -> int | None:
    """Wait for a CRIU that should end by itself; kill it if it does not."""
    code = process.wait(engine.END_SECONDS)
    if code is not None:
        return code
    process.kill()
    return process.wait(engine.END_SECONDS)


def _frozen_seconds(log: Path, otherwise: float) -> float:
    """Return the time from the first task's stop to the thaw, by CRIU's log: with --stream it has no statistics."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return otherwise
    first, last = _SEIZED.search(text), _UNFREEZING.search(text)
    return float(last[1]) - float(first[1]) if first and last else otherwise


_SEIZED = re.compile(r"^\((\d+\.\d+)\) Seized task ", re.MULTILINE)
_UNFREEZING = re.compile(r"^\((\d+\.\d+)\) Unfreezing tasks ", re.MULTILINE)


def _dump_error(place: Place, code: int | None, action: PostDump, request: DumpRequest) -> DumpError:
    if action.late:
        return DumpError(
            f"the checkpoint kept the job stopped for more than {request.max_freeze:g} s and was given up",
            hint="raise --max-freeze, or checkpoint a smaller job",
        )
    killed = code is not None and code < 0  # then what the capture noticed is only a consequence
    if action.error is not None and not killed:
        return action.error if isinstance(action.error, DumpError) else DumpError(_told(action.error))
    if code == 0:
        return DumpError(
            "CRIU let the job run on without asking; the images may be torn",
            hint="this is a defect: report it",
        )
    log = place.folder / "dump.log"
    if (finding := remedies.finding_of(log, request.pids())) is not None:
        kind = BusyError if finding.remedy.name in _BUSY else KnownDumpError
        return kind(finding)
    return DumpError(remedies.sentence(log, engine.ended(code)))


def _told(error: Exception) -> str:
    return f"the checkpoint failed: {error or type(error).__name__}"
