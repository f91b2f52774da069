"""A supervisor's end of the job's channel in a folder of its own: the process of the test is the job."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from ckptrun.core.events import JobStarted
from ckptrun.job import _channel, _page
from ckptrun.supervisor.channel import Asked, Channel
from ckptrun.supervisor.rendezvous import Rendezvous
from ckptrun.supervisor.statepage import StatePage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest


class Meeting:
    """A supervisor's end in a folder of its own, and the SDK pointed at it."""

    def __init__(self, folder: Path) -> None:
        self.place = Rendezvous(folder / "c", None, inside=f"{folder}/c")
        self.place.make()
        self.notes: list[str] = []
        self.page = StatePage(self.place.page, "run-a", "train", self.notes.append)
        self.channel = Channel(self.place, self.page, self.notes.append)
        self.asked: list[Asked] = []
        self.arrived = threading.Condition()
        self.socket = f"{folder}/c/notify/socket"

    def take(self, asked: Asked) -> None:
        with self.arrived:
            self.asked.append(asked)
            self.arrived.notify_all()

    def start(self, **handlers: Callable[[Asked], None]) -> None:
        for name, handler in handlers.items():
            self.channel.register(name, handler)
        self.channel.start()
        self.channel.begin(1, "", {"TODAY": "yes", "BYTES": "\udcff"})
        self.channel.opened(os.getpid())
        self.live(1)

    def live(self, number: int) -> None:
        self.channel.observe(JobStarted(0.0, number))

    def wait(self, count: int) -> list[Asked]:
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.asked) >= count, 30)
            return list(self.asked)


@contextlib.contextmanager
def meet(monkeypatch: pytest.MonkeyPatch) -> Iterator[Meeting]:
    """Point the SDK at a supervisor's end, until the end."""
    with tempfile.TemporaryDirectory(prefix="meet-", dir="/tmp") as name:
        found = Meeting(Path(name))
        monkeypatch.setenv("NOTIFY_SOCKET", found.socket)
        monkeypatch.setattr(_channel, "SOCKET", found.socket)
        monkeypatch.setattr(_channel, "REPLIES", found.place.senders)
        monkeypatch.setattr(_page, "READER", _page.Reader(str(found.place.page)))
        monkeypatch.setattr("ckptrun.job._calls.ENVIRONMENT", f"{name}/c/state/environment.json")
        yield found
        found.channel.close()
        found.page.close()
