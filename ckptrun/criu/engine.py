"""Drives CRIU: one dump into staging, one restore from sources.

Called by the supervisor's worker threads. CRIU is started through a `Spawn` callable (it must run inside the capsule);
what happens inside the freeze is the caller's `Frozen` callback. Both operations leave their log in the folder they
were given, and turn a failure into one sentence with `remedies`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from ckptrun.criu import remedies
from ckptrun.criu.adoption import Adoption
from ckptrun.criu.postdump import ACTION_SOCKET, PostDump
from ckptrun.criu.stream import Capture, Serve
from ckptrun.errors import DumpError, RestoreError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from ckptrun.core.model import Source
    from ckptrun.criu.program import Criu
    from ckptrun.criu.remedies import Finding
    from ckptrun.criu.staging import Extents, Slot

LOG_LEVEL = "-v3"
COLLECT_SECONDS = 30
"""CRIU's --timeout: for collecting the tree; 10 s by default is too little for thousands of processes."""
END_SECONDS = 10.0
"""How long CRIU may take to end once it has been refused or cut off; then it is killed."""
WATCH_SECONDS = 0.5
"""How often a dump looks whether the job still lives."""
GHOST_LIMIT = 1 << 30
"""Bytes an unlinked open file may have; CRIU's own default of 1 MiB is a trap."""


class Process(Protocol):
    """A started CRIU."""

    pid: int

    def wait(self, timeout: float | None) -> int | None:
        """Return the exit code (negative: signal), or None when `timeout` seconds pass first."""

    def kill(self) -> None:
        """End it with SIGKILL, and what it left behind."""


class Spawn(Protocol):
    """Starts a program inside the capsule."""

    def __call__(self, argv: Sequence[str], env: Mapping[str, str], fds: Mapping[int, int]) -> Process:
        """Start `argv` with `env` as its whole environment; `fds` maps numbers inside to descriptors here."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one operation works.

    Args:
        criu: the program.
        folder: private, short path, empty: sockets and logs.
        action: path of the static helper inside the capsule.
        unprivileged: pass ``--unprivileged``.
    """

    criu: Criu
    folder: Path
    action: str
    unprivileged: bool = False

    def common(self, verb: str) -> list[str]:
        """Return the options dump and restore share."""
        options = [*self.criu.argv, verb, "--stream", "-D", str(self.folder), "-W", str(self.folder)]
        options += ["-o", f"{verb}.log", LOG_LEVEL, "--action-script", self.action]
        options += ["--manage-cgroups=ignore", "--file-locks", "--ext-unix-sk"]
        if self.unprivileged:
            options.append("--unprivileged")
        return options


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


class _KnownDumpError(DumpError):
    """A dump failed for a reason that the table knows."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.cause, hint=finding.remedy.remedy)
        self.finding = finding


class BusyError(_KnownDumpError):
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
    except _KnownDumpError as error:
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
        request.max_freeze + request.hold + END_SECONDS
    )  # the action's own, should this process be stuck
    env = _environment(place) | {
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
            return process.wait(END_SECONDS)
    action.refuse()
    return _end(process)


def _end(process: Process) -> int | None:
    """Wait for a CRIU that should end by itself; kill it if it does not."""
    code = process.wait(END_SECONDS)
    if code is not None:
        return code
    process.kill()
    return process.wait(END_SECONDS)


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
        kind = BusyError if finding.remedy.name in _BUSY else _KnownDumpError
        return kind(finding)
    return DumpError(remedies.sentence(log, _ended(code)))


def _told(error: Exception) -> str:
    return f"the checkpoint failed: {error or type(error).__name__}"


def _ended(code: int | None) -> str:
    if code is None:
        return "CRIU did not end"
    return f"CRIU was killed by signal {-code}" if code < 0 else f"CRIU failed with {code}"


@dataclass(frozen=True, slots=True)
class RestoreRequest:
    """One restore to make.

    Args:
        images: name -> content, as they were dumped.
        last_pid: the highest PID in the tree; the PID counter is set to it.
        inherit: CRIU's name of each external thing at the dump -> descriptor of this process that takes its place.
        flags: what the dump was made with beyond the usual.
        retrying: told why, before a failed restore is tried again.
        adopter: the root's PID, if processes whose parents are dead must land below it; else 0.
    """

    images: Mapping[str, Source]
    last_pid: int
    inherit: Mapping[str, int]
    flags: tuple[str, ...] = ()
    retrying: Callable[[str], None] = lambda _: None
    adopter: int = 0


class _KnownRestoreError(RestoreError):
    """A restore failed for a reason that the table knows."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.cause, hint=finding.remedy.remedy)
        self.finding = finding


class LostRaceError(_KnownRestoreError):
    """The kernel was about a connection or a port that was to be had again; a moment later it may be free."""


_KERNEL_FIRST = {"connection-reset", "connection-unreachable", "port-taken"}


def restore(place: Place, request: RestoreRequest, spawn: Spawn, timeout: float) -> None:
    """Restore the tree; when this returns, CRIU says that it runs. As with a dump, it may be tried once more.

    Raises:
        RestoreError: it does not.
        StoreError: the images could not be read from the store.
    """
    try:
        return _restore(place, request, spawn, timeout)
    except _KnownRestoreError as error:
        retry = error.finding.remedy.retry
        if retry is None:
            raise
        request.retrying(f"{error.finding.cause}; it was tried again {retry}")
    (place.folder / "restore.log").rename(place.folder / "restore-first.log")
    time.sleep(retry.pause)
    return _restore(place, replace(request, flags=(*request.flags, *retry.flags)), spawn, timeout)


def _restore(place: Place, request: RestoreRequest, spawn: Spawn, timeout: float) -> None:
    argv = [*place.common("restore"), "--restore-detached", *request.flags]
    fds: dict[int, int] = {}
    for number, (name, fd) in enumerate(request.inherit.items(), start=3):
        fds[number] = fd
        argv += ["--inherit-fd", f"fd[{number}]:{name}"]
    env = _environment(place) | {"CKPTRUN_LAST_PID": str(request.last_pid)}
    with contextlib.ExitStack() as stack:
        serve = Serve(place.folder, request.images, Adoption(place.action, request.adopter, spawn).asked)
        stack.callback(serve.close)
        serve.start()
        try:
            process = spawn(argv, env, fds)
        except OSError as error:
            raise RestoreError(f"CRIU could not be started: {error}") from error
        code = process.wait(timeout)
        if code is None:
            process.kill()
            process.wait(END_SECONDS)
    if isinstance(serve.error, StoreError):
        raise serve.error  # damaged, or out of reach for now: what is done about it differs
    if serve.error is not None:
        raise RestoreError(f"the checkpoint's images could not be read: {serve.error}") from serve.error
    log = place.folder / "restore.log"
    if code != 0 and (finding := remedies.finding_of(log)) is not None:
        kind = LostRaceError if finding.remedy.name in _KERNEL_FIRST else _KnownRestoreError
        raise kind(finding)
    if code is None:
        raise RestoreError(f"CRIU did not finish the restore within {timeout:g} s")
    if code != 0:
        raise RestoreError(remedies.sentence(log, _ended(code)))


def clean(folder: Path) -> None:
    """Empty the folder of an operation."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)


def _environment(place: Place) -> dict[str, str]:
    """CRIU needs a PATH for its own helpers and nothing else of ours."""
    path = os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    return {"PATH": path, "LC_ALL": "C", "CKPTRUN_CRIU_VERSION": ".".join(map(str, place.criu.version))}
