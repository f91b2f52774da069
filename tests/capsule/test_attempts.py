"""A job root that dies while CRIU is still making it: the attempt has failed, not the job."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from live import wait_until
from support.processes import PATIENCE

from ckptrun.capsule import helper as helpers
from ckptrun.capsule.capsule import ROOT_PID
from ckptrun.capsule.spec import Program
from ckptrun.core.events import JobEnded
from ckptrun.supervisor.incarnation import Incarnation
from ckptrun.supervisor.job import Job
from ckptrun.supervisor.privilege import ROOT, Privilege

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptrun.capsule.running import Running
    from ckptrun.capsule.streams import Streams
    from ckptrun.core.events import Event


class Attempts:
    """An incarnation whose job root is a program of the test's."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        job = Job(("true",), {}, "/", False, None, Privilege(ROOT))
        streams = cast("Streams", SimpleNamespace(wiring=None))
        self.incarnation = Incarnation(1, job, streams, self.events.append, lambda: None)
        self.incarnation.open(helpers.find(None))

    def root(self, script: str) -> Running:
        """Start something as the job root."""
        program = Program(["/bin/sh", "-c", script], dict(os.environ), "/", last_pid=ROOT_PID - 1)
        running = self.incarnation.capsule.spawn(program)
        assert running.pid == ROOT_PID
        return running


@pytest.fixture
def attempts() -> Iterator[Attempts]:
    attempts = Attempts()
    yield attempts
    attempts.incarnation.destroy()


def test_the_end_of_a_failed_attempts_root_leaves_the_capsule_for_the_next(attempts: Attempts):
    incarnation = attempts.incarnation
    incarnation.restoring()
    for _ in range(3):
        root = attempts.root("kill -9 $$")
        assert root.wait(PATIENCE) == -9
        incarnation.again()
        assert incarnation.root_status is None
    root = attempts.root("exit 3")
    assert root.wait(PATIENCE) == 3
    assert not incarnation.ended.is_set()
    incarnation.restored()
    incarnation.make_live()
    wait_until(lambda: attempts.events)
    (ended,) = attempts.events
    assert isinstance(ended, JobEnded)
    assert ended.outcome.code == 3


def test_what_a_failed_attempt_left_running_is_ended_before_the_next(attempts: Attempts):
    incarnation = attempts.incarnation
    incarnation.restoring()
    for _ in range(3):
        attempts.root("trap '' TERM; sleep 100 & setsid sleep 100 & sleep 100")
        wait_until(lambda: len(incarnation.capsule.host_pids()) == 4)
        incarnation.again()
        assert incarnation.capsule.host_pids() == []
        assert incarnation.root_status is None


def test_the_end_of_a_restored_root_is_the_jobs(attempts: Attempts):
    incarnation = attempts.incarnation
    incarnation.restoring()
    root = attempts.root("exec sleep 100")
    incarnation.restored()
    incarnation.make_live()
    root.kill()
    wait_until(lambda: attempts.events)
    (ended,) = attempts.events
    assert isinstance(ended, JobEnded)
    assert ended.outcome.signal == 9
