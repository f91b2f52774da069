"""What becomes of the critical sections of a process that ends inside, and what a run says of those that are open."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from ckptrun.core import events as e
from ckptrun.core import plans
from ckptrun.core.config import Config
from ckptrun.core.machine import step
from ckptrun.core.state import initial
from ckptrun.supervisor import deaths
from ckptrun.supervisor.channel import Asked
from ckptrun.supervisor.deaths import Deaths
from ckptrun.supervisor.requests import figures
from ckptrun.supervisor.shell import Shell

if TYPE_CHECKING:
    from collections.abc import Iterator

LIVES = (sys.executable, "-c", "import sys; sys.stdin.read()")


class Loop:
    """A shell with a running job whose queue is taken by the test."""

    def __init__(self) -> None:
        self.shell = Shell(Config("t", None), grace=1.0, forward_usr1=False)
        self.shell.state = initial(self.shell._config)
        for event in (e.StagingReady(0.0), e.Begin(0.0, plans.Fresh()), e.JobStarted(0.0, 1)):
            self.step(event)
        self.shell._step = self.step  # type: ignore[method-assign]
        self.answers: list[tuple[str | None, str | None]] = []
        self.children: list[subprocess.Popen[bytes]] = []

    def step(self, event: e.Event) -> None:
        self.shell.state, _ = step(self.shell.state, event)

    def work(self) -> None:
        """Do the next thing that the loop is asked for; wait for it."""
        task = self.shell._queue.get(timeout=30)
        assert callable(task)
        task()

    def process(self) -> subprocess.Popen[bytes]:
        self.children.append(subprocess.Popen(LIVES, stdin=subprocess.PIPE))
        return self.children[-1]

    def enter(self, section: str, pid: int, what: str = "train.py:7", **fields: object) -> Asked:
        asked = Asked("critical", fields, pid, 1, lambda _reply: None)
        self.shell.sections.enter(asked, section, 600.0, what, lambda *told: self.answers.append(told))
        self.work()
        return asked

    @property
    def sections(self) -> list[str]:
        return [section.name for section in self.shell.state.incarnation.sections]


@pytest.fixture
def loop() -> Iterator[Loop]:
    found = Loop()
    yield found
    found.shell.sections.close()
    for child in found.children:
        child.kill()
        child.communicate()


def test_the_sections_of_a_process_that_is_killed_are_left_and_no_others(loop: Loop):
    killed, other = loop.process(), loop.process()
    for section, process in (("a", killed), ("b", other), ("c", killed)):
        loop.enter(section, process.pid)
    killed.kill()  # nobody has waited for it yet: a zombie holds nothing either
    loop.work()
    loop.work()
    assert loop.sections == ["b"]


def test_a_process_that_had_ended_before_its_section_was_entered_holds_nothing(loop: Loop):
    gone = loop.process()
    gone.kill()
    gone.wait()
    loop.enter("a", gone.pid)
    loop.work()
    assert loop.sections == []


def test_a_section_that_was_left_is_not_left_again_when_its_process_ends(loop: Loop):
    process = loop.process()
    asked = loop.enter("a", process.pid)
    loop.shell.sections.leave(asked, "a")
    loop.work()
    loop.enter("b", process.pid)
    process.kill()
    loop.work()
    assert loop.sections == []
    assert loop.shell._queue.empty()


def test_more_processes_than_are_watched_hold_for_their_time(monkeypatch: pytest.MonkeyPatch, loop: Loop):
    monkeypatch.setattr(deaths, "MOST", 1)
    first, second = loop.process(), loop.process()
    loop.enter("a", first.pid)
    loop.enter("b", second.pid)
    second.kill()
    second.wait()
    first.kill()
    loop.work()
    assert loop.sections == ["b"]


def test_a_process_is_watched_for_as_long_as_it_holds_something(loop: Loop):
    found = Deaths()
    process = loop.process()
    ended: list[str] = []
    for name in ("a", "b"):
        found.watch(process.pid, name, lambda n=name: ended.append(n))  # type: ignore[misc]
    found.forget(process.pid, "a")
    assert process.pid in found._processes
    found.forget(process.pid, "b")
    found.forget(process.pid, "c")
    assert not found._processes
    found.close()
    found.close()
    assert ended == []


def test_status_says_since_when_a_checkpoint_is_held_back_and_by_what(loop: Loop):
    process = loop.process()
    loop.enter("a", process.pid, what="train.py:7\n\x00")
    assert figures(loop.shell.state, time.monotonic())["held_back"] is None, "nobody wants a checkpoint"
    loop.step(e.CheckpointRequested(time.monotonic()))
    held = figures(loop.shell.state, time.monotonic())["held_back"]
    assert isinstance(held, dict)
    assert 0 <= held["seconds"] < 600
    (by,) = held["by"]
    assert by["what"] == f"train.py:7 ? in process {process.pid}"


def test_who_enters_inside_another_section_says_so(loop: Loop):
    loop.enter("a", loop.process().pid, nested=True)
    loop.enter("b", loop.process().pid, nested="yes")
    assert [s.nested for s in loop.shell.state.incarnation.sections] == [True, False]
