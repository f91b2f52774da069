"""The supervisor's end of the job's channel: takes datagrams, knows their senders, has requests handled.

One thread reads the socket. What a request means is not known here: `Channel.register` names a handler for each.
docs/design/channel.md is the protocol, ``ckptrun.job._channel`` the other end.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptrun.core.events import Begin, Committed, JobStarted, RestoreSucceeded
from ckptrun.core.plans import candidates
from ckptrun.supervisor.answers import Answers
from ckptrun.supervisor.asked import Asked as Asked  # noqa: PLC0414 - whoever registers a handler needs it
from ckptrun.supervisor.asked import Handler
from ckptrun.supervisor.control_client import socket_address
from ckptrun.supervisor.senders import Senders

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckptrun.core.events import Event
    from ckptrun.core.model import Json
    from ckptrun.supervisor.rendezvous import Rendezvous
    from ckptrun.supervisor.statepage import StatePage

LIMIT = 128 * 1024
"""Bytes of one datagram."""
CLOSE_SECONDS = 5.0
KEPT_EARLY, KEPT_EARLY_BYTES = 4096, 4 << 20
"""Datagrams kept that come before the job counts as running, and their bytes; who waits for a reply sends again."""
VERSION = 1
ID_LIMIT = 200
"""Characters of a request's id."""
_CREDENTIALS = struct.Struct("3i")
_ROOM = socket.CMSG_SPACE(_CREDENTIALS.size)
"""For credentials and nothing else: descriptors that come along are closed by the kernel."""


class _Credentials(NamedTuple):
    """What the kernel says of a sender."""

    pid: int
    uid: int
    gid: int


class Channel:
    """The channel of one run.

    Args:
        place: where the job finds it.
        page: what the job is told without asking.
        note: takes sentences for the user.

    Raises:
        OSError: the socket cannot be made.
    """

    def __init__(self, place: Rendezvous, page: StatePage, note: Callable[[str], None]) -> None:
        self._place = place
        self.page = page
        self._note = note
        self._handlers: dict[str, Handler] = {}
        self._notices: set[str] = set()
        self._repeatable: set[str] = set()
        self._lines: Callable[[int, dict[str, str]], None] = lambda _number, _lines: None
        self._went_live: Callable[[int], None] = lambda _number: None
        self._spoken: Callable[[], None] = lambda: None
        self._memory: dict[str, tuple[Callable[[], Json], Callable[[Json], None]]] = {}
        self._lock = threading.Lock()
        self._answers = Answers(place.replies, page.page.run)
        self._early: list[tuple[bytes, _Credentials, Any]] = []
        self._early_bytes = 0
        self._incarnation = 0
        self._restores = 0
        self._senders = Senders()
        self._live = False
        self._stop = False
        self._said = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._socket = self._bound()
        self._thread = threading.Thread(target=self._serve, name="channel", daemon=True)

    def register(self, do: str, handler: Handler, *, answers: bool = True, repeatable: bool = False) -> None:
        """Have requests called `do` handled; before `start`.

        Args:
            do: their name.
            handler: takes them.
            answers: it answers each of them once; else they are notices, which it must take however fast they come.
            repeatable: one that is sent again may be handled again: its reply is not kept.
        """
        self._handlers[do] = handler
        if not answers:
            self._notices.add(do)
        if repeatable:
            self._repeatable.add(do)

    def on_lines(self, take: Callable[[int, dict[str, str]], None]) -> None:
        """Have the lines of ``sd_notify`` taken, with the incarnation, in the channel's thread; before `start`."""
        self._lines = take

    def on_live(self, take: Callable[[int], None]) -> None:
        """Have it told, in the loop's thread, when an incarnation counts as running; before `start`."""
        self._went_live = take

    def on_first(self, take: Callable[[], None]) -> None:
        """Have it told, in the channel's thread and before all else, that the job speaks; before `start`."""
        self._spoken = take

    def remember(self, name: str, get: Callable[[], Json], put: Callable[[Json], None]) -> None:
        """Have every checkpoint carry what `get` returns once it is complete; before `start`.

        `put` takes it back before the job runs: what the restored checkpoint has, None where there is nothing.
        """
        self._memory[name] = (get, put)

    def start(self) -> None:
        """Begin to take datagrams."""
        self._thread.start()

    def close(self) -> None:
        """Take and answer nothing any more."""
        with self._lock:
            self._stop = True
            os.eventfd_write(self._wake, 1)
        self._answers.stop()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_SECONDS)
            if self._thread.is_alive():
                return  # a handler is stuck; the sockets end with this process
        self._senders.begin(0)
        self._socket.close()
        self._answers.close()
        os.close(self._wake)

    def begin(self, incarnation: int, origin: str, environment: Mapping[str, str]) -> None:
        """Forget the incarnation before this one, of which nothing lives, and tell the next one who it is."""
        with contextlib.suppress(OSError):  # a full disk: the job finds what was told before
            self._place.tell_environment(environment)
        with self._lock:
            self._live, self._incarnation = False, incarnation
            self._senders.begin(0)
            self._early.clear()
            self._early_bytes = 0
            if not origin:
                self._recall({})
            with contextlib.suppress(OSError):
                self._place.sweep()
            self._answers.begin(incarnation)
            self.page.set(incarnation=incarnation, origin=origin)

    def restoring(self, facts: Mapping[str, Any]) -> None:
        """Take what the checkpoint that is being restored says of the job: see `facts`."""
        restores = facts.get("restores", 0)
        self._restores = max(self._restores, restores if isinstance(restores, int) else 0) + 1
        self.page.set(restores=self._restores)
        self._recall(facts)

    def facts(self) -> dict[str, Json]:
        """Return what a checkpoint must remember of the job."""
        return {"restores": self._restores, **{name: get() for name, (get, _) in self._memory.items()}}

    def _recall(self, facts: Mapping[str, Any]) -> None:
        for name, (_, put) in self._memory.items():
            put(facts.get(name))

    def opened(self, init_pid: int) -> None:
        """Take what comes from below this process from now on; nothing of the job runs yet."""
        self._senders.begin(init_pid)

    def observe(self, event: Event) -> None:
        """Take note of what concerns the job: that it counts as running now, that a checkpoint was committed."""
        if isinstance(event, JobStarted | RestoreSucceeded) and event.incarnation == self._incarnation:
            with self._lock:
                self._live = True
                os.eventfd_write(self._wake, 1)
            self._went_live(event.incarnation)
        elif isinstance(event, Committed):
            self.page.set(committed=event.seq, newest=event.id)
        elif isinstance(event, Begin) and (known := candidates(event.plan)):
            newest = known[0]
            self.page.set(committed=newest.seq, newest=newest.id)

    def _bound(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            with socket_address(self._place.notify, "socket") as address:
                sock.bind(address)
            os.chmod(self._place.notify / "socket", 0o666)  # noqa: PTH101, S103 - by senders it is judged
        except BaseException:
            sock.close()
            raise
        return sock

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while not self._stop:
                for key, _ in selector.select():
                    if key.fileobj is self._socket:
                        self._receive()
                    else:
                        with contextlib.suppress(BlockingIOError):
                            os.eventfd_read(self._wake)
                if self._live and self._early:
                    with self._lock:
                        early, self._early, self._early_bytes = self._early, [], 0
                    for data, who, sender in early:
                        self._take(data, who, sender)

    def _receive(self) -> None:
        try:
            data, extra, flags, sender = self._socket.recvmsg(LIMIT, _ROOM)
        except OSError:
            return
        who = next(
            (
                _Credentials(*_CREDENTIALS.unpack(content))
                for level, kind, content in extra
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS)
            ),
            _Credentials(0, 0, 0),
        )
        if flags & socket.MSG_TRUNC or not self._senders.has(who.pid):
            return
        self._spoken()
        self._spoken = lambda: None
        if self._live and not self._early:
            self._take(data, who, sender)
        elif len(self._early) < KEPT_EARLY and self._early_bytes + len(data) <= KEPT_EARLY_BYTES:
            with self._lock:
                self._early.append((data, who, sender))
                self._early_bytes += len(data)

    def _take(self, data: bytes, who: _Credentials, sender: object) -> None:
        try:
            if data[:1] == b"{":
                self._take_request(json.loads(data), who, sender)
            else:
                self._lines(self._incarnation, _lines(data))
        except Exception as error:  # noqa: BLE001 - whatever a job sends, the run goes on
            if not self._said:
                self._note(f"the job sent what ckptrun cannot take: {error!r}")
            self._said = True

    def _take_request(self, fields: Any, who: _Credentials, sender: object) -> None:
        if not isinstance(fields, dict) or not isinstance(do := fields.get("do"), str):
            return
        identity = fields.get("id")
        name = _reply_name(sender, self._place.senders)
        if do in self._notices or identity is None or not name:
            self._take_unanswered(do, fields, who)
            return
        if not isinstance(identity, str) or len(identity) > ID_LIMIT:
            return
        if admitted := self._answers.admit(identity, name, keep=do not in self._repeatable):
            number, answer = admitted
            self._pass_on(Asked(do, fields, who.pid, number, answer, (who.uid, who.gid)))

    def _take_unanswered(self, do: str, fields: Mapping[str, Any], who: _Credentials) -> None:
        """Take a notice, or a request of a sender that has no socket in the folder."""
        notice = (self._incarnation, lambda _reply: None)
        admitted = notice if do in self._notices else self._answers.admit_unanswered()
        if admitted is None:
            return
        number, answered = admitted
        try:
            if handler := self._handlers.get(do):
                handler(Asked(do, fields, who.pid, number, answered, (who.uid, who.gid)))
            else:
                answered({})
        except BaseException:
            answered({})
            raise

    def _pass_on(self, asked: Asked) -> None:
        if asked.fields.get("v") != VERSION:
            asked.fail(
                "usage", f"this ckptrun does not know version {asked.fields.get('v')!r} of its channel"
            )
        elif handler := self._handlers.get(asked.do):
            try:
                handler(asked)
            except Exception as error:  # noqa: BLE001 - the job hears of it
                asked.fail("internal", f"internal error: {error!r}")
        else:
            asked.fail("usage", f"this ckptrun knows no request {asked.do!r}", "it may be of another version")


def _reply_name(sender: object, within: str) -> str:
    """Return the name, in the folder for replies, of a sender's socket; empty if it has none there."""
    path = sender.decode("utf-8", "replace") if isinstance(sender, bytes) else sender
    if not isinstance(path, str):
        return ""
    folder, _, name = path.rpartition("/")
    return name if folder == within and name not in {"", ".", ".."} else ""


def _lines(data: bytes) -> dict[str, str]:
    """Return the assignments of an ``sd_notify`` message."""
    pairs = (line.partition("=") for line in data.decode("utf-8", "replace").splitlines())
    return {name: value for name, equals, value in pairs if equals}
