"""What the calls of the SDK mean to the run: each becomes an event of the machine, in the loop's thread.

Handlers are called in the channel's thread. What a job may send as often as it likes, heartbeats and figures, waits
for the loop in one task, however often it comes.
"""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from ckptrun.core import events as e

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckptrun.supervisor.channel import Asked, Channel
    from ckptrun.supervisor.shell import Shell

LONGEST = 1e9
"""Seconds that a promise or a section may last at most."""
WORDS = 200
"""Characters of a reason, and of a metric's or a section's name, that are kept."""
STATUS_WORDS = 1000
MOST_METRICS = 256
PASSED_ON = ("READY", "STATUS", "WATCHDOG", "STOPPING")
"""What a service manager above ckptrun is told of the job, in the words of ``sd_notify``."""


class JobCalls:
    """The calls of one run.

    Args:
        channel: by which they come.
        shell: carries them out.
        above: ckptrun's own ``NOTIFY_SOCKET``; empty if it has none.
    """

    def __init__(self, channel: Channel, shell: Shell, above: str = "") -> None:
        self._shell = shell
        self._above = _Above(above)
        self._lock = threading.Lock()
        self._beaten: dict[int, float] = {}
        self._figures: dict[int, dict[str, float]] = {}
        self._within: float | None = None
        self.status = ""
        """What the job last said of itself (``STATUS=``)."""
        channel.register("checkpoint", self._checkpoint)
        channel.register("rollback", self._rollback)
        channel.register("critical", self._critical)
        channel.register("heartbeat", self._heartbeat, answers=False)
        channel.register("report", self._report, answers=False)
        channel.on_lines(self._lines)
        channel.on_live(self._live)
        channel.remember("within", lambda: self._within, self._promised)

    def _checkpoint(self, asked: Asked) -> None:
        def told(identity: str | None, error: str | None) -> None:
            if error is None:
                asked.reply(checkpoint=identity)
            else:
                asked.fail("checkpoint", error)

        self._shell.enqueue(lambda: self._shell.request(told, wait=bool(asked.fields.get("wait"))))

    def _rollback(self, asked: Asked) -> None:
        reason = " ".join(str(asked.fields.get("reason", "")).split())[:WORDS] or "no reason given"

        def told(_: str | None, error: str | None) -> None:
            if error is not None:
                asked.fail("refused", error)  # else it is being killed: there is nobody to tell

        self._ask(
            asked, told, lambda now, waiter: e.RollbackRequested(now, asked.incarnation, reason, waiter)
        )

    def _critical(self, asked: Asked) -> None:
        section, seconds = asked.fields.get("section"), _seconds(asked.fields.get("seconds"))
        leave = asked.fields.get("action") == "leave"
        if not isinstance(section, str) or not section or len(section) > WORDS or not (leave or seconds):
            asked.fail("usage", "a critical section has a name and lasts some seconds")
            return

        def told(_: str | None, error: str | None) -> None:
            if error is None:
                asked.reply()
            else:
                asked.fail("unavailable", error)

        if leave:
            self._shell.sections.leave(asked, section, told)
        else:
            where = str(asked.fields.get("where") or "a critical section")
            self._shell.sections.enter(asked, section, seconds or 0.0, where, told)

    def _ask(
        self,
        asked: Asked,
        told: Callable[[str | None, str | None], None],
        make: Callable[[float, int], e.Event],
    ) -> None:
        self._shell.enqueue(lambda: self._shell.ask(asked.incarnation, told, make))

    def _heartbeat(self, asked: Asked) -> None:
        within = _seconds(asked.fields.get("within"))
        slack = _seconds(asked.fields.get("slack")) or 0.0
        self._beat(asked.incarnation, None if within is None else within + slack)

    def _report(self, asked: Asked) -> None:
        figures = asked.fields.get("metrics")
        if not isinstance(figures, dict):
            return
        good = {
            str(name)[:WORDS]: float(value)
            for name, value in figures.items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        with self._lock:
            waits = asked.incarnation in self._figures
            known = self._figures.setdefault(asked.incarnation, {})
            known.update(good)
            while len(known) > MOST_METRICS:
                del known[next(iter(known))]
        if not waits:
            self._shell.enqueue(lambda: self._pass_on_figures(asked.incarnation))

    def _pass_on_figures(self, number: int) -> None:
        with self._lock:
            figures = self._figures.pop(number)
        self._shell.tell(e.Reported(time.monotonic(), number, figures))

    def _lines(self, number: int, lines: Mapping[str, str]) -> None:
        if "STATUS" in lines:
            self.status = lines["STATUS"][:STATUS_WORDS]
        within = None
        with contextlib.suppress(ValueError):
            within = _seconds(int(lines.get("WATCHDOG_USEC", "")) / 1e6)
        if lines.get("WATCHDOG") == "1" or within is not None:
            self._beat(number, within)
        self._above.tell({name: lines[name] for name in PASSED_ON if name in lines and name != "WATCHDOG"})

    def _beat(self, number: int, within: float | None) -> None:
        """Pass a heartbeat on; while one waits for the loop, the next makes it younger."""
        with self._lock:
            waits = number in self._beaten
            self._beaten[number] = time.monotonic()
            if within is not None:
                self._within = within
        if not waits:
            self._shell.enqueue(lambda: self._pass_on_beat(number))
        self._above.tell({"WATCHDOG": "1"})

    def _pass_on_beat(self, number: int) -> None:
        with self._lock:
            moment, within = self._beaten.pop(number), self._within
        self._shell.tell(e.Beat(moment, number, within))

    def _promised(self, within: Any) -> None:
        """Take what the checkpoint that is restored says; a job that was started fresh has promised nothing."""
        with self._lock:
            self._within = _seconds(within)

    def _live(self, number: int) -> None:
        """The restored job knows what it has promised, and so does ckptrun."""
        with self._lock:
            within = self._within
        if within is not None:
            self._shell.post(e.Beat(time.monotonic(), number, within))


class _Above:
    """The service manager that started ckptrun, if it listens."""

    def __init__(self, address: str) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def tell(self, lines: Mapping[str, str]) -> None:
        """Pass lines on; one that cannot be told now is lost, as any of ``sd_notify``."""
        if self._address and lines:
            text = "\n".join(f"{name}={value}" for name, value in lines.items())
            with contextlib.suppress(OSError):
                self._socket.sendto(text.encode("utf-8", "replace"), self._address)


def _seconds(value: object) -> float | None:
    """Return a length of time that makes sense, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 < value <= LONGEST else None
