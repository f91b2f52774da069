"""Makes one restore from sources, and says what was in its way.

Called by the supervisor's worker threads. CRIU is started through a `Spawn` callable, inside the capsule. A restore
leaves its log in the folder it was given, and turns a failure into one sentence with `remedies`.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptrun.criu import engine, remedies
from ckptrun.criu.adoption import Adoption
from ckptrun.criu.serve import Serve
from ckptrun.errors import RestoreError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckptrun.core.model import Source
    from ckptrun.criu.engine import Place, Spawn
    from ckptrun.criu.remedies import Finding


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
    env = engine.environment(place) | {"CKPTRUN_LAST_PID": str(request.last_pid)}
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
            process.wait(engine.END_SECONDS)
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
        raise RestoreError(remedies.sentence(log, engine.ended(code)))
