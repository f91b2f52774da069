"""How what a job says reaches the machine, and what a checkpoint remembers of it."""

from __future__ import annotations

import os
import queue
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ckptrun.core import events as e
from ckptrun.core import plans
from ckptrun.core.config import Config
from ckptrun.core.invariants import validate_state
from ckptrun.core.machine import step
from ckptrun.core.state import initial
from ckptrun.job import _calls as job_calls
from ckptrun.supervisor import shell as shells
from ckptrun.supervisor.channel import Asked, Channel
from ckptrun.supervisor.jobcalls import JobCalls
from ckptrun.supervisor.rendezvous import Rendezvous
from ckptrun.supervisor.shell import Shell
from ckptrun.supervisor.statepage import StatePage

if TYPE_CHECKING:
    from collections.abc import Iterator


class Office:
    """A run's channel and its calls, whose shell takes what comes and does nothing yet."""

    def __init__(self, folder: Path) -> None:
        self.place = Rendezvous(folder / "c", None, inside=f"{folder}/c")
        self.place.make()
        self.page = StatePage(self.place.page, "run-a", "train", print)
        self.channel = Channel(self.place, self.page, print)
        self.shell = Shell(Config("t"), grace=1.0, forward_usr1=False)
        self.told: list[e.Event] = []
        self.shell.tell = self.told.append  # type: ignore[method-assign]
        self.calls = JobCalls(self.channel, self.shell)
        self.channel.begin(1, "", {})
        self.channel.opened(os.getpid())

    def hears(self, do: str, **fields: object) -> list[dict[str, object]]:
        """Have a handler called as the channel's thread does; return its replies."""
        replies: list[dict[str, object]] = []
        self.channel._handlers[do](Asked(do, fields, os.getpid(), 1, replies.append))
        return replies

    def work(self) -> list[e.Event]:
        """Do what waits for the loop, and return what the machine would be told."""
        while True:
            try:
                item = self.shell._queue.get_nowait()
            except queue.Empty:
                break
            if callable(item):
                item()
            else:
                self.told.append(item)
        told, self.told[:] = list(self.told), []
        return told


@pytest.fixture
def office() -> Iterator[Office]:
    with tempfile.TemporaryDirectory(prefix="meet-", dir="/tmp") as name:
        found = Office(Path(name))
        yield found
        found.channel.close()
        found.page.close()


def test_heartbeats_in_a_hurry_wait_in_one_task_and_the_last_one_counts(office: Office):
    for _ in range(1000):
        office.hears("heartbeat", within=5.0, slack=0.5)
    assert office.shell._queue.qsize() == 1
    (beat,) = office.work()
    assert isinstance(beat, e.Beat)
    assert (beat.incarnation, beat.within) == (1, 5.5)


def test_figures_in_a_hurry_wait_in_one_task_and_the_last_of_each_name_counts(office: Office):
    for number in range(1000):
        office.hears(
            "report", metrics={"loss": number, f"name-{number}": 1, "bad": float("nan"), "text": "x"}
        )
    (reported,) = office.work()
    assert isinstance(reported, e.Reported)
    assert reported.metrics["name-999"] == 1.0
    assert len(reported.metrics) <= 256
    assert {"bad", "text"}.isdisjoint(reported.metrics)


@pytest.mark.parametrize("within", [0, -1, "soon", True, 1e300, float("nan")])
def test_a_promise_that_makes_no_sense_is_none(office: Office, within: object):
    office.hears("heartbeat", within=within)
    assert [event.within for event in office.work() if isinstance(event, e.Beat)] == [None]


def test_a_promise_goes_with_the_checkpoint_and_is_in_force_again_after_the_restore(office: Office):
    office.hears("heartbeat", within=7.0)
    office.work()
    facts = office.channel.facts()
    assert facts["within"] == 7.0

    office.channel.begin(2, "", {})  # started fresh: nothing is promised
    office.channel.observe(e.JobStarted(0.0, 2))
    assert office.work() == []

    office.channel.begin(3, "a-0001", {})
    office.channel.restoring(facts)
    office.channel.observe(e.RestoreSucceeded(0.0, 3))
    ((within, number),) = [(k.within, k.incarnation) for k in office.work() if isinstance(k, e.Beat)]
    assert (within, number) == (7.0, 3)

    office.channel.begin(4, "a-0000", {})
    office.channel.restoring({})  # of an older version, or taken before the promise
    office.channel.observe(e.RestoreSucceeded(0.0, 4))
    assert office.work() == []


@pytest.mark.parametrize(
    "fields",
    [
        {"action": "enter", "seconds": 5},
        {"action": "enter", "section": "", "seconds": 5},
        {"action": "enter", "section": "s" * 1000, "seconds": 5},
        {"action": "enter", "section": "s", "seconds": 0},
        {"action": "enter", "section": "s"},
        {"action": "leave", "section": 7},
    ],
)
def test_a_section_that_makes_no_sense_is_refused(office: Office, fields: dict[str, object]):
    (reply,) = office.hears("critical", **fields)
    assert (reply["ok"], reply["kind"]) == (False, "usage")


def test_a_loop_that_was_held_up_itself_takes_no_heartbeat_for_lost(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shells, "HELD_UP_SECONDS", 0.05)
    now = time.monotonic()
    shell = Shell(Config("t", None), grace=1.0, forward_usr1=False)
    shell.state = initial(Config("t", None))
    for event in (e.Begin(now, plans.Fresh()), e.JobStarted(now, 1), e.Beat(now, 1, 0.1)):
        shell.state, _ = step(shell.state, event)
    told: list[e.Event] = []

    def take(event: e.Event) -> None:
        told.append(event)
        shell.state, _ = step(shell.state, event)
        validate_state(shell.state)

    monkeypatch.setattr(shell, "_step", take)
    monkeypatch.setattr(shell, "_patience", lambda: 0.0)

    class Stopped:
        """A queue at which the process is stopped for longer than the job has promised to be silent."""

        def get(self, timeout: float | None = None) -> e.Event:
            del timeout
            time.sleep(0.2)
            return e.StagingReady(time.monotonic())

    monkeypatch.setattr(shell, "_queue", Stopped())
    shell._take_one()
    assert [type(event) for event in told] == [e.Beat, e.StagingReady]
    assert shell.state.incarnation.condemned == ""


def test_a_promise_that_is_taken_back_is_one_that_nobody_waits_for_and_no_restore_renews(office: Office):
    office.hears("heartbeat", within=5.0, slack=0.5)
    office.hears("heartbeat", within=job_calls.WITHDRAWN, slack=1.0)
    *_, beat = office.work()
    assert isinstance(beat, e.Beat)
    assert beat.within is not None
    assert beat.within > 365 * 86400
    remembered = office.channel.facts()["within"]
    office.calls._promised(remembered)
    assert office.calls._within is None
