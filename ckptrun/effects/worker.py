"""Runs an undo or a sender in the job's interpreter, as the job's user, with its environment, outside its capsule.

The other side is ``ckptrun/job/_worker.py``, given as ``-c``: any Python from 3.8 on, nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import selectors
import signal
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptrun.effects.model import Entry

SECONDS = 60.0
"""An undo or a sender that takes longer is killed and counts as failed."""
KEPT = 2000
"""Bytes kept of what a worker writes: the end says why it failed."""
_ANSWER = 64 * 1024
"""Bytes of an answer."""
_GRACE_SECONDS = 2.0
_SCRIPT = Path(__file__).parents[1] / "job" / "_worker.py"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a worker gets of the job.

    Args:
        environment: the job's, today.
        cwd: where the job was started.
        identity: (uid, gid, groups), if not this process's.
        sdk: folder under which ``ckptrun.job`` can be imported; put at the end of the search path.
    """

    environment: Mapping[str, str]
    cwd: str
    identity: tuple[int, int, tuple[int, ...]] | None = None
    sdk: str = ""


def run(entry: Entry, surroundings: Surroundings, seconds: float = SECONDS) -> str:
    """Run the undo or the sender of ``entry``; return why it failed, or ""."""
    call = entry.call if isinstance(entry.call, dict) else {}
    place: Any = call.get("place")
    place = place if isinstance(place, dict) else {}
    executable = str(place.get("executable") or "")
    if not call.get("function") or not executable:
        return "nothing is known that could be run"
    request = {
        "function": call["function"],
        "args": call.get("args", []),
        "kwargs": call.get("kwargs", {}),
        "key": entry.key,
        "result": entry.result,
        "script": place.get("script"),
        "path": place.get("path", []),
        "sdk": surroundings.sdk,
    }
    user: Any = call.get("user")
    if user:
        surroundings = replace(surroundings, identity=_identity(*user))
    cwd = str(place.get("cwd") or surroundings.cwd)
    try:
        return _run(
            [executable, "-c", _SCRIPT.read_text("utf-8")],
            json.dumps(request).encode(),
            cwd,
            surroundings,
            seconds,
        )
    except (
        OSError,
        ValueError,
    ) as error:  # whatever the job has said that it is, one that cannot be run holds up none
        why = error.strerror if isinstance(error, OSError) else error
        return f"{executable!r} could not be started in {cwd!r}: {why}"


def _identity(uid: int, gid: int) -> tuple[int, int, tuple[int, ...]]:
    try:
        return uid, gid, tuple(os.getgrouplist(pwd.getpwuid(uid).pw_name, gid))
    except KeyError:
        return uid, gid, (gid,)


def _run(argv: list[str], request: bytes, cwd: str, surroundings: Surroundings, seconds: float) -> str:
    reading, writing = os.pipe()
    try:
        uid, gid, groups = surroundings.identity or (None, None, None)
        process = subprocess.Popen(
            [*argv, str(writing), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=dict(surroundings.environment),
            pass_fds=(writing,),
            start_new_session=True,
            user=uid,
            group=gid,
            extra_groups=groups,
        )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    try:
        return _outcome(process, request, reading, time.monotonic() + seconds, seconds)
    finally:
        _end(process)
        os.close(reading)


def _outcome(
    process: subprocess.Popen[bytes], request: bytes, reading: int, deadline: float, seconds: float
) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(request)
        process.stdin.close()
    answer, written = bytearray(), bytearray()
    with selectors.DefaultSelector() as waiting:
        waiting.register(reading, selectors.EVENT_READ, answer)
        waiting.register(process.stdout, selectors.EVENT_READ, written)
        while waiting.get_map().get(reading):  # what outlives the worker may hold its output open, not this
            left = deadline - time.monotonic()
            ready = waiting.select(max(left, 0))
            if not ready and left <= 0:
                return f"it took longer than {seconds:g} s and was killed"
            for found, _ in ready:
                if data := os.read(found.fd, 65536):
                    found.data.extend(data)
                    del written[:-KEPT], answer[_ANSWER:]
                else:
                    waiting.unregister(found.fileobj)
    if answer:
        with contextlib.suppress(ValueError, RecursionError):
            told = json.loads(answer)
            if isinstance(told, dict):
                return str(told.get("error", ""))[:KEPT]
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_SECONDS)
    last = written.decode("utf-8", "replace").strip().rpartition("\n")[2]
    return f"it ended with {process.returncode}{': ' + last if last else ''}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leave nothing of it behind."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
