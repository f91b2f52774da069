"""The job's end of the channel: requests with a reply, and notices without one. See docs/design/channel.md.

`request` is for whoever adds a call: ``reply = request("effect-begin", key=key)`` returns the reply's fields or
raises the error it carries.

The standard library's larger modules are imported when they are first needed; the SDK's own must all be imported at
once: after a restore, its folder may be that of another version.
"""

from __future__ import annotations

import itertools
import os
import time

from ckptrun.job import _page
from ckptrun.job._errors import NotUnderCkptrunError, UnavailableError, UsageError, failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any, Callable

SOCKET = _page.HOME + "/notify/socket"
REPLIES = _page.HOME + "/notify/r"
VERSION = 1
LIMIT = 128 * 1024
"""Bytes of one datagram."""
GLANCE = 0.25
"""Seconds between two looks at the state page while a reply is awaited."""
LONGEST_PAUSE = 8.0
"""Seconds between two sendings of a request; the first are 1, 2 and 4 s apart."""
CROWDED_PAUSE = 0.01
"""Seconds before a request is sent again that found ckptrun's queue full."""
UNREACHABLE_SECONDS = 30.0
"""How long a request is tried at a socket that nobody reads."""

while_waiting: list[Callable[[], None]] = []
"""Called now and then by whoever waits for a reply."""

_numbers = itertools.count(1)
_notices: socket.socket | None = None


def under_ckptrun() -> bool:
    """Return whether this process runs under ckptrun."""
    return os.environ.get("NOTIFY_SOCKET") == SOCKET


def request(do: str, timeout: float | None = None, **fields: Any) -> dict[str, Any]:
    """Ask ckptrun for something and return its reply.

    It is sent again until a reply comes, and again after a restore: ckptrun must be able to take it twice.
    A ``checkpoint`` that a restore comes upon has succeeded: the job was restored from it.

    Args:
        do: the request's name.
        timeout: seconds to wait for the reply; None waits as long as it takes.
        fields: what goes with it, as JSON.

    Raises:
        NotUnderCkptrunError: there is no ckptrun.
        UsageError: it does not fit into a datagram, or is not JSON.
        UnavailableError: no reply within ``timeout``, or nobody to ask.
        JobError: what the reply says; see `_errors.KINDS`.
    """
    if not under_ckptrun():
        raise NotUnderCkptrunError(f"{do} needs ckptrun", "run the job with 'ckptrun -- COMMAND'")
    name = f"{os.getpid()}-{next(_numbers)}-{os.urandom(6).hex()}"
    data = encoded(do, dict(fields, id=name))
    box = _Mailbox(name)
    try:
        reply = _exchange(box, data, do, None if timeout is None else time.monotonic() + timeout)
    finally:
        box.close()
    if reply.get("ok") is True:
        return reply
    raise failure(reply)


def notice(do: str, **fields: Any) -> bool:
    """Tell ckptrun something it does not answer; never waits. Return whether it was sent.

    Raises:
        UsageError: it does not fit into a datagram, or is not JSON.
    """
    return under_ckptrun() and post(encoded(do, fields))


def post(data: bytes) -> bool:
    """Send what `encoded` has made, without waiting; return whether it was sent."""
    global _notices  # noqa: PLW0603 - one socket for each process
    import socket

    if _notices is None:
        _notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        _notices.sendto(data, socket.MSG_DONTWAIT, SOCKET)
    except OSError:
        return False  # the queue is full, or nobody is there: the next one may arrive
    return True


def encoded(do: str, fields: dict[str, Any]) -> bytes:
    """Return a datagram. Raises UsageError."""
    import json

    try:
        data = json.dumps(dict(fields, v=VERSION, do=do), separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise UsageError(f"{do} cannot be said as JSON: {error}") from None
    if len(data) > LIMIT:
        raise UsageError(f"{do} has {len(data)} bytes; {LIMIT} are all that fit")
    return data


class _Mailbox:
    """The socket that takes one request's reply, bound for its time."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._path = f"{REPLIES}/{name}"
        self._bind()

    def send(self, data: bytes) -> bool:
        """Send a request; return whether ckptrun's queue had room. Raises OSError if nobody is there."""
        if not os.path.exists(self._path):  # noqa: PTH110 - somebody has cleaned up
            self._socket.close()
            self._bind()
        try:
            self._socket.sendto(data, SOCKET)
        except BlockingIOError:
            return False
        return True

    def take(self, seconds: float) -> dict[str, Any]:
        """Wait for a reply; return it, or nothing."""
        import json

        self._poll.poll(max(seconds * 1000, 1))
        try:
            found = json.loads(self._socket.recv(2 * LIMIT))
        except (BlockingIOError, ValueError):
            return {}
        return found if isinstance(found, dict) and found.get("id") == self.name else {}

    def close(self) -> None:
        """Let go of it."""
        self._socket.close()
        try:
            os.unlink(self._path)  # noqa: PTH108
        except OSError:
            pass

    def _bind(self) -> None:
        import select
        import socket

        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        try:
            self._socket.bind(self._path)
        except OSError as error:
            self._socket.close()
            raise UnavailableError(f"ckptrun cannot be asked: {self._path}: {error.strerror}") from error


def _exchange(box: _Mailbox, data: bytes, do: str, deadline: float | None) -> dict[str, Any]:
    """Send, wait, send again, until there is a reply of this incarnation."""
    asked = _page.read()
    pause, unreachable = 1.0, time.monotonic() + UNREACHABLE_SECONDS
    while True:
        now = time.monotonic()
        if deadline is not None and now >= deadline:
            raise UnavailableError(f"ckptrun has not answered {do} in time")
        try:
            sent = box.send(data)
            again = now + (pause if sent else CROWDED_PAUSE)
            pause = min(pause * 2, LONGEST_PAUSE) if sent else pause
            unreachable = now + UNREACHABLE_SECONDS
        except OSError as error:
            if now > unreachable:
                raise UnavailableError(f"ckptrun cannot be asked: {error.strerror}") from error
            again = now + GLANCE
        while now < again and (deadline is None or now < deadline):
            soonest = again if deadline is None else min(again, deadline)
            reply = box.take(min(soonest - now, GLANCE))
            for call in while_waiting:
                call()
            page = _page.read()
            if not page.same_life(asked):  # the request was frozen, and nobody knows of it any more
                if do == "checkpoint":
                    return {"ok": True, "checkpoint": page.origin}
                asked = page
                break
            if reply.get("incarnation") == page.incarnation and reply.get("run") == page.run:
                return reply
            now = time.monotonic()


def _forked() -> None:
    global _notices  # noqa: PLW0603
    _notices = None


os.register_at_fork(after_in_child=_forked)
