"""Who asks a run to stop, and when asking again means that nobody wants to wait."""

from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from ckptrun.supervisor import console as consoles
from ckptrun.supervisor.console import Console

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptrun.capsule.streams import Streams
    from ckptrun.supervisor.shell import Shell
    from ckptrun.telemetry.speak import Speaker


class Asked:
    """A console, and what it has asked of the loop."""

    def __init__(self) -> None:
        self.stops: list[int] = []
        self.own: Callable[[int, bool], None]
        shell = SimpleNamespace(stop=self.stops.append, enqueue=lambda task: task(), incarnation=None)
        terminal = SimpleNamespace(enter=lambda: None, raw=False)
        self.console = Console(
            cast("Shell", shell),
            cast("Streams", SimpleNamespace(terminal=terminal)),
            cast("Speaker", SimpleNamespace()),
            lambda handle: setattr(self, "own", handle),
            forward_usr1=False,
        )
        self.console.open()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """With so little time between two requests that each counts."""
    monkeypatch.setattr(consoles, "SAME_STOP_SECONDS", 0.0)
    return Asked()


def test_the_same_asker_who_asks_again_does_not_want_to_wait(asked: Asked) -> None:
    asked.own(signal.SIGTERM, False)
    asked.own(signal.SIGINT, False)
    assert asked.stops == [signal.SIGTERM, signal.SIGINT]


@pytest.mark.parametrize("first", ["container", "own"])
def test_a_pods_end_that_reaches_both_containers_is_one_request(asked: Asked, first: str) -> None:
    ways: list[Callable[[], None]] = [
        lambda: asked.console.from_container(signal.SIGTERM),
        lambda: asked.own(signal.SIGTERM, False),
    ]
    for way in ways if first == "container" else reversed(ways):
        way()
    assert asked.stops == [signal.SIGTERM]
