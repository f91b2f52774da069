"""What a run says of the critical sections that are open."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from ckptrun.core import events as e
from ckptrun.core.config import Config
from ckptrun.core.machine import step
from ckptrun.core.state import initial
from ckptrun.supervisor.channel import Asked
from ckptrun.supervisor.shell import Shell

if TYPE_CHECKING:
    from collections.abc import Iterator

LIVES = (sys.executable, "-c", "import sys; sys.stdin.read()")


class Loop:
    """A shell with a running job whose queue is taken by the test."""

    def __init__(self) -> None:
        self.shell = Shell(Config("t", None), grace=1.0, forward_usr1=False)
        self.shell.state = initial(self.shell._config)
        for event in (e.StagingReady(0.0), e.Begin(0.0, e.Fresh()), e.JobStarted(0.0, 1)):
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
    for child in found.children:
        child.kill()
        child.communicate()


def test_status_says_since_when_a_checkpoint_is_held_back_and_by_what(loop: Loop):
    process = loop.process()
    loop.enter("a", process.pid, what="train.py:7\n\x00")
    assert loop.shell.figures()["held_back"] is None, "nobody wants a checkpoint"
    loop.step(e.CheckpointRequested(time.monotonic()))
    held = loop.shell.figures()["held_back"]
    assert isinstance(held, dict)
    assert 0 <= held["seconds"] < 600
    (by,) = held["by"]
    assert by["what"] == f"train.py:7 ? in process {process.pid}"


def test_who_enters_inside_another_section_says_so(loop: Loop):
    loop.enter("a", loop.process().pid, nested=True)
    loop.enter("b", loop.process().pid, nested="yes")
    assert [s.nested for s in loop.shell.state.incarnation.sections] == [True, False]
