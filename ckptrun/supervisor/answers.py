"""The requests of the job's that are under way, and the replies to them. Part of `ckptrun.supervisor.channel`.

A request is handled once in an incarnation, however often it is sent. A reply goes to a socket in the folder for
them, and to nothing that only leads elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Admitted: TypeAlias = tuple[int, Callable[[dict[str, Any]], None]]
    """The incarnation that asks, and what takes the reply, once, from any thread."""

OPEN_REQUESTS = 1024
"""Requests under way at a time."""
OPEN_UNANSWERED = 64
"""How many of them may be of senders that cannot be answered; more are dropped, as nobody waits for them."""
KEPT_REPLIES = 256
"""Replies kept for requests that are sent again because theirs was lost."""
_BUSY = {"ok": False, "kind": "unavailable", "error": "too many requests at once", "hint": ""}


class Answers:
    """The requests of one incarnation. Any thread.

    Args:
        folder: where senders have their sockets, as this process reaches it.
        run: id of the run, for replies.
    """

    def __init__(self, folder: Path, run: str) -> None:
        self._place = folder
        self._run = run
        self._lock = threading.Lock()
        self._number = 0
        self._open: dict[str, object] = {}
        self._done: OrderedDict[str, tuple[str, bytes]] = OrderedDict()
        self._unanswered: set[object] = set()
        self._stopped = False
        self._folder = -1
        self._out = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def begin(self, incarnation: int) -> None:
        """Forget the requests of the incarnation before this one."""
        with self._lock:
            self._number = incarnation
            self._open.clear()
            self._done.clear()
            self._unanswered.clear()
            if self._folder >= 0:
                os.close(self._folder)
            self._folder = os.open(self._place, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def stop(self) -> None:
        """Send nothing any more."""
        with self._lock:
            self._stopped = True

    def close(self) -> None:
        """Let go of the sockets; nothing is sent any more."""
        with self._lock:
            self._stopped = True
            self._out.close()
            if self._folder >= 0:
                os.close(self._folder)
                self._folder = -1

    def admit(self, identity: str, name: str, *, keep: bool) -> Admitted | None:
        """Take note of a request; None if there is nothing to be done: it is under way, was answered, or is too much.

        Args:
            identity: the request's; the same when it is sent again.
            name: of the sender's socket in the folder.
            keep: keep the reply, for when the request is sent again.
        """
        token = object()
        with self._lock:
            number = self._number
            done, known = self._done.get(identity), identity in self._open
            full = len(self._open) >= OPEN_REQUESTS
            if not (done or known or full):
                self._open[identity] = token
        if done:
            self._send(*done)
        elif full and not known:
            self._send(name, self._bytes(identity, number, _BUSY))
        if done or known or full:
            return None
        return number, lambda reply: self._answer(token, identity, name, number, reply, keep=keep)

    def admit_unanswered(self) -> Admitted | None:
        """Take note of a request whose sender cannot be answered; None if there are too many."""
        token = object()
        with self._lock:
            if len(self._unanswered) >= OPEN_UNANSWERED:
                return None
            self._unanswered.add(token)
            number = self._number

        def answered(_reply: dict[str, Any]) -> None:
            with self._lock:
                self._unanswered.discard(token)

        return number, answered

    def _answer(
        self, token: object, identity: str, name: str, number: int, reply: dict[str, Any], *, keep: bool
    ) -> None:
        data = self._bytes(identity, number, reply)
        with self._lock:
            if self._open.get(identity) is not token:
                return  # of an incarnation that has ended, or answered already
            del self._open[identity]
            if keep:
                self._done[identity] = (name, data)
            while len(self._done) > KEPT_REPLIES:
                self._done.popitem(last=False)
        self._send(name, data)

    def _bytes(self, identity: str, number: int, reply: dict[str, Any]) -> bytes:
        whole = {"v": 1, "id": identity, "run": self._run, "incarnation": number, **reply}
        return json.dumps(whole, separators=(",", ":"), default=str).encode()

    def _send(self, name: str, data: bytes) -> None:
        with self._lock, contextlib.suppress(OSError):
            if self._stopped:
                return
            target = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folder)
            try:
                if stat.S_ISSOCK(os.fstat(target).st_mode):
                    self._out.sendto(data, f"/proc/self/fd/{target}")
            finally:
                os.close(target)
