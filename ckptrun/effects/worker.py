"""Runs undos and senders in the job's interpreter, as the job's user, with its environment, outside its capsule.

A process serves all that one function has to do, one thing after another, until something goes wrong with it. The other
side is ``ckptrun/job/_worker.py``, given as ``-c``: any Python from 3.8 on, nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import selectors
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ckptrun.effects.confined import confine

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ckptrun.effects.model import Entry

SECONDS = 60.0
"""An undo or a sender that takes longer is killed and counts as failed."""
KEPT = 2000
"""Bytes kept of what a worker writes: the end says why it failed."""
PROCESSES = 8
"""So many wait for more to do; then the one that was used longest ago is ended."""
_ANSWER = 64 * 1024
"""Bytes of an answer."""
_GRACE_SECONDS = 2.0
"""What a process may do at its end, all of them together."""
_SCRIPT = Path(__file__).parents[1] / "job" / "_worker.py"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a worker gets of the job.

    Args:
        environment: the job's, today.
        cwd: where the job was started.
        identity: (uid, gid, groups), if not this process's.
        sdk: folder under which ``ckptrun.job`` can be imported; put at the end of the search path. The folders
            above it may be closed to the process's user.
        restricted: the job has no capability and can gain none; nor can they.
    """

    environment: Mapping[str, str]
    cwd: str
    identity: tuple[int, int, tuple[int, ...]] | None = None
    sdk: str = ""
    restricted: bool = False


class Workers:
    """The processes that undo and send; one thread, with which they end.

    Args:
        surroundings: what they get of the job.
        seconds: for one undo or sending; one that takes longer is killed and counts as failed.
    """

    def __init__(self, surroundings: Surroundings, seconds: float = SECONDS) -> None:
        self._surroundings = surroundings
        self._seconds = seconds
        self._idle: dict[str, _Process] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _end(self._idle.values(), _GRACE_SECONDS)
        self._idle.clear()

    def run(self, entry: Entry) -> str:
        """Run the undo or the sender of ``entry``; return why it failed, or ""."""
        call = entry.call if isinstance(entry.call, dict) else {}
        place: Any = call.get("place")
        place = place if isinstance(place, dict) else {}
        if not call.get("function") or not place.get("executable"):
            return "nothing is known that could be run"
        name = json.dumps([call["function"], place, call.get("user")], sort_keys=True)
        idle = self._idle.pop(name, None)
        process = self._start(place, call.get("user")) if idle is None or idle.ended() else idle
        if isinstance(process, str):
            return process
        request = {
            "function": call["function"],
            "args": call.get("args", []),
            "kwargs": call.get("kwargs", {}),
            "key": entry.key,
            "result": entry.result,
        }
        error = "it was interrupted"
        try:
            error = process.ask(request, self._seconds)
        finally:
            if error:
                _end([process], 0.0)  # it may have left a mess: the next one starts anew
        if not error:
            self._idle[name] = process
            if len(self._idle) > PROCESSES:
                _end([self._idle.pop(next(iter(self._idle)))], _GRACE_SECONDS)
        return error

    def _start(self, place: Mapping[str, Any], user: Any) -> _Process | str:
        """Return a process, or why there is none."""
        executable, cwd = str(place["executable"]), str(place.get("cwd") or self._surroundings.cwd)
        setting = {"script": place.get("script"), "path": place.get("path", [])}
        around = self._surroundings
        try:
            if user:
                around = replace(around, identity=_identity(*user))
            return _Process(executable, cwd, around, setting)
        except (OSError, ValueError) as error:  # whatever the job has said that it is: it holds up no other
            why = error.strerror if isinstance(error, OSError) else error
            return f"{executable!r} could not be started in {cwd!r}: {why}"


def _identity(uid: int, gid: int) -> tuple[int, int, tuple[int, ...]]:
    try:
        return uid, gid, tuple(os.getgrouplist(pwd.getpwuid(uid).pw_name, gid))
    except KeyError:
        return uid, gid, (gid,)


class _Process:
    """One worker: a line of JSON for each request and each answer, on a socket.

    Args:
        executable: of the job's interpreter.
        cwd: of the process.
        around: see `Surroundings`.
        setting: for the first line.

    Raises:
        OSError, ValueError: it cannot be started.
    """

    def __init__(
        self,
        executable: str,
        cwd: str,
        around: Surroundings,
        setting: Mapping[str, Any],
    ) -> None:
        uid, gid, groups = around.identity or (None, None, None)
        self._socket, theirs = socket.socketpair()
        try:
            with theirs, _opened(around.sdk) as passed:
                argv = [executable, "-c", _SCRIPT.read_text("utf-8"), str(theirs.fileno()), str(os.getpid())]
                self._process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    cwd=cwd,
                    env=dict(around.environment),
                    pass_fds=(theirs.fileno(), *passed),
                    start_new_session=True,
                    user=uid,
                    group=gid,
                    extra_groups=groups,
                    preexec_fn=confine if around.restricted else None,  # noqa: PLW1509 - system calls alone
                )
        except BaseException:
            self._socket.close()
            raise
        self._socket.setblocking(False)
        self._pidfd = os.pidfd_open(self._process.pid)
        self._unsent = bytearray(_line({**setting, "sdk": passed}))
        self._written = bytearray()

    def ended(self) -> bool:
        """Whether it has ended, or says something unasked: then what it is given may not be done."""
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._socket, selectors.EVENT_READ)
            ended = bool(waiting.select(0))
        if ended:
            _end([self], 0.0)
        return ended

    def ask(self, request: Mapping[str, Any], seconds: float) -> str:
        """Have one thing done; return why it failed, or "". After a failure nothing more can be asked."""
        self._unsent += _line(request)
        self._written.clear()
        answer = self._answer(time.monotonic() + seconds)
        if answer is None:
            return f"it took longer than {seconds:g} s and was killed"
        with contextlib.suppress(ValueError, RecursionError):
            told = json.loads(answer)
            if isinstance(told, dict):
                return str(told.get("error", ""))[:KEPT]
        self.end(time.monotonic() + _GRACE_SECONDS)
        last = self._written.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return f"it ended with {self._process.returncode}{': ' + last if last else ''}"

    def _answer(self, deadline: float) -> bytes | None:
        """Return a line of answer, or what there is of one at its end; None at the deadline (monotonic seconds)."""
        answer = bytearray()
        output = self._process.stdout
        assert output is not None
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._socket, selectors.EVENT_READ | selectors.EVENT_WRITE)
            waiting.register(output, selectors.EVENT_READ)
            while b"\n" not in answer and len(answer) < _ANSWER:
                left = deadline - time.monotonic()
                ready = waiting.select(max(left, 0))
                if not ready and left <= 0:
                    return None
                for found, events in ready:
                    if found.fileobj is output:
                        if data := os.read(output.fileno(), 65536):
                            self._written += data
                            del self._written[:-KEPT]
                        else:
                            waiting.unregister(
                                output
                            )  # what outlives it may hold its output open, not the socket
                    elif events & selectors.EVENT_READ:
                        data = self._received()
                        if not data:
                            return bytes(answer)
                        answer += data
                        del answer[_ANSWER:]
                    elif not self._send():
                        waiting.modify(self._socket, selectors.EVENT_READ)
        return bytes(answer)

    def _received(self) -> bytes:
        try:
            return self._socket.recv(65536)
        except OSError:  # it ended with something unread
            return b""

    def _send(self) -> bool:
        """Send what fits; return whether there is more."""
        try:
            del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            return True
        except OSError:  # it has ended: that is read
            self._unsent.clear()
        return bool(self._unsent)

    def let_go(self) -> None:
        """Have it end by itself: there is nothing more to do, and nobody reads what it writes."""
        self._socket.close()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def end(self, deadline: float) -> None:
        """Leave nothing of it behind; it may end by itself until then (monotonic seconds)."""
        if self._process.returncode is not None:
            return
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._pidfd, selectors.EVENT_READ)
            waiting.select(max(deadline - time.monotonic(), 0))
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(
                self._process.pid, signal.SIGKILL
            )  # until it is waited for, its number is nobody else's
        self._process.wait()
        os.close(self._pidfd)


def _end(processes: Iterable[_Process], seconds: float) -> None:
    """End processes; all together, they may take so long to do it by themselves."""
    ending = list(processes)
    for process in ending:
        process.let_go()
    deadline = time.monotonic() + seconds
    for process in ending:
        process.end(deadline)


@contextlib.contextmanager
def _opened(folder: str) -> Iterator[tuple[int, ...]]:
    """Give a descriptor through which a folder can be entered whatever its parents say; none without a folder."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY) if folder else None
    try:
        yield () if fd is None else (fd,)
    finally:
        if fd is not None:
            os.close(fd)


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"
