"""Drives CRIU: one dump into staging, one restore from sources.

Called by the supervisor's worker threads. CRIU is started through a `Spawn` callable (it must run inside the capsule);
what happens inside the freeze is the caller's `Frozen` callback. Both operations leave their log in the folder they
were given, and turn a failure into one sentence with `remedies`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ckptrun.criu import remedies
from ckptrun.criu.stream import Capture, Serve
from ckptrun.errors import DumpError, RestoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from ckptrun.core.model import Source
    from ckptrun.criu.program import Criu
    from ckptrun.criu.staging import Extents, Slot

ACTION_SOCKET = "action.sock"
LOG_LEVEL = "-v3"
COLLECT_SECONDS = 30
"""CRIU's --timeout: for collecting the tree; 10 s by default is too little for thousands of processes."""
END_SECONDS = 30.0
"""How long CRIU may take to end after its work is done."""
GHOST_LIMIT = 1 << 30
"""Bytes an unlinked open file may have; CRIU's own default of 1 MiB is a trap."""


class Process(Protocol):
    """A started CRIU."""

    pid: int

    def wait(self, timeout: float | None) -> int | None:
        """Return the exit code (negative: signal), or None when `timeout` seconds pass first."""


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
        options += ["--manage-cgroups=ignore", "--file-locks", "--ext-unix-sk", "--tcp-established"]
        options += ["--network-lock", "skip"]
        if self.unprivileged:
            options.append("--unprivileged")
        return options


@dataclass(slots=True)
class DumpResult:
    """What a dump gave; seconds by the monotonic clock.

    Args:
        images: the image files, in staging.
        frozen_seconds: from CRIU's first look at the tree to its thaw.
    """

    images: Mapping[str, Extents]
    frozen_seconds: float
    flags: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class DumpRequest:
    """One dump to make.

    Args:
        root_pid: PID inside the capsule of the tree's root.
        slot: where the images go.
        external: CRIU's names of what stays outside: ``pipe:[123]``.
        max_freeze: seconds the job may be stopped.
        frozen: called while the tree is stopped and all images are read; what it raises fails the dump.
        hold: seconds more that `frozen` may take, for a checkpoint after which the job is to be killed.
    """

    root_pid: int
    slot: Slot
    external: Sequence[str]
    max_freeze: float
    frozen: Callable[[], None]
    hold: float = 0.0
    flags: tuple[str, ...] = ()


def dump(place: Place, request: DumpRequest, spawn: Spawn) -> DumpResult:
    """Dump the tree and let it run on.

    Raises:
        DumpError: it failed or took too long; the job runs on.
    """
    capture = Capture(place.folder, request.slot)
    argv = [*place.common("dump"), "-t", str(request.root_pid), "--leave-running", "--link-remap"]
    argv += ["--ghost-limit", str(GHOST_LIMIT), "--timeout", str(COLLECT_SECONDS), *request.flags]
    for name in request.external:
        argv += ["--external", name]
    action = _PostDump(place.folder, capture, request)
    env = _environment(place) | {
        "CKPTRUN_ACTION_SOCKET": str(place.folder / ACTION_SOCKET),
        "CKPTRUN_ACTION_MILLISECONDS": str(int((request.max_freeze + request.hold) * 1000)),
    }
    capture.start()
    action.start()
    started = time.monotonic()
    try:
        process = spawn(argv, env, {})
        code = _wait_for_dump(process, action, capture, started + request.max_freeze)
    finally:
        action.close()
        capture.close()
    ended = time.monotonic()
    if code == 0 and action.granted:
        return DumpResult(capture.images, ended - started)
    raise _dump_error(place, code, action, capture, request)


def _wait_for_dump(process: Process, action: _PostDump, capture: Capture, deadline: float) -> int | None:
    """Wait for CRIU; past the deadline, before its post-dump action, break its pipes so that it fails and thaws."""
    code = process.wait(max(deadline - time.monotonic(), 0.0))
    if code is not None:
        return code
    if not action.reached.is_set():
        capture.close()
    return process.wait(END_SECONDS + action.hold)


def _dump_error(
    place: Place, code: int | None, action: _PostDump, capture: Capture, request: DumpRequest
) -> DumpError:
    error = action.error or capture.error
    if isinstance(error, DumpError):
        return error
    if error is not None:
        return DumpError(f"the checkpoint failed: {error}")
    if code is None or action.late or not (action.reached.is_set() or code):
        return DumpError(
            f"the checkpoint kept the job stopped for more than {request.max_freeze:g} s and was given up",
            hint="raise --max-freeze, or checkpoint a smaller job",
        )
    return DumpError(remedies.sentence(place.folder / "dump.log", f"CRIU failed with {code}"))


class _PostDump:
    """Answers CRIU's post-dump action: yes, when all is read and the caller's work inside the freeze is done."""

    def __init__(self, folder: Path, capture: Capture, request: DumpRequest) -> None:
        self.reached = threading.Event()
        self.granted = False
        self.late = False
        self.error: Exception | None = None
        self.hold = request.hold
        self._capture = capture
        self._request = request
        path = folder / ACTION_SOCKET
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        path.chmod(0o666)  # the folder is private; the action may run as the job's user
        self._listener.listen(1)
        self._deadline = time.monotonic() + request.max_freeze
        self._thread = threading.Thread(target=self._run, name="post-dump", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _run(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        with connection, contextlib.suppress(OSError):
            connection.recv(64)
            self.reached.set()
            answer = b"y" if self._grant() else b"n"
            connection.sendall(answer)
            self.granted = answer == b"y"

    def _grant(self) -> bool:
        try:
            if not self._capture.wait(max(self._deadline - time.monotonic(), 0.0)):
                self.late = self._capture.error is None
                return False
            self._request.frozen()
        except Exception as error:  # noqa: BLE001 - whatever it is, the job must be thawed
            self.error = error
            return False
        self.late = time.monotonic() > self._deadline + self.hold
        return not self.late


@dataclass(frozen=True, slots=True)
class RestoreRequest:
    """One restore to make.

    Args:
        images: name -> content, as they were dumped.
        last_pid: the highest PID in the tree; the PID counter is set to it.
        inherit: CRIU's name of each external thing at the dump -> descriptor of this process that takes its place.
        flags: what the dump was made with beyond the usual.
    """

    images: Mapping[str, Source]
    last_pid: int
    inherit: Mapping[str, int]
    flags: tuple[str, ...] = ()


def restore(place: Place, request: RestoreRequest, spawn: Spawn, timeout: float) -> None:
    """Restore the tree; when this returns, CRIU says that it runs.

    Raises:
        RestoreError: it does not.
    """
    serve = Serve(place.folder, request.images)
    argv = [*place.common("restore"), "--restore-detached", *request.flags]
    fds: dict[int, int] = {}
    for number, (name, fd) in enumerate(request.inherit.items(), start=3):
        fds[number] = fd
        argv += ["--inherit-fd", f"fd[{number}]:{name}"]
    env = _environment(place) | {"CKPTRUN_LAST_PID": str(request.last_pid)}
    serve.start()
    try:
        code = spawn(argv, env, fds).wait(timeout)
    finally:
        serve.close()
    if serve.error is not None:
        raise RestoreError(f"the checkpoint's images could not be read: {serve.error}") from serve.error
    if code is None:
        raise RestoreError(f"CRIU did not finish the restore within {timeout:g} s")
    if code != 0:
        raise RestoreError(remedies.sentence(place.folder / "restore.log", f"CRIU failed with {code}"))


def clean(folder: Path) -> None:
    """Empty the folder of an operation."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)


def _environment(place: Place) -> dict[str, str]:
    """CRIU needs a PATH for its own helpers and nothing else of ours."""
    path = os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    return {"PATH": path, "LC_ALL": "C", "CKPTRUN_CRIU_VERSION": ".".join(map(str, place.criu.version))}
