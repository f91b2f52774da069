"""Who may speak for the job: what is below init, and whoever gets the PID of one that has ended is another."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.pids import end, start, start_as

from ckptrun.supervisor import senders
from ckptrun.supervisor.senders import Senders

if TYPE_CHECKING:
    from collections.abc import Iterator


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@contextmanager
def family() -> Iterator[tuple[int, int]]:
    """Give a process and a child of its; the child is ended by the process's end of a pipe."""
    say, told = os.pipe()
    top = os.fork()
    if top == 0:
        try:
            child = start()
            os.write(told, str(child).encode())
            signal.sigwait({signal.SIGTERM})
            end(child)
        finally:
            os._exit(0)
    try:
        yield top, int(os.read(say, 20))
    finally:
        os.kill(top, signal.SIGTERM)
        os.waitpid(top, 0)
        os.close(say)
        os.close(told)


@pytest.fixture(autouse=True)
def _terms_wait() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_a_known_sender_is_not_looked_up_again(monkeypatch: pytest.MonkeyPatch):
    with family() as (top, child):
        who = Senders()
        who.begin(top)
        assert who.has(child)
        monkeypatch.setattr(senders, "is_below", lambda *_: pytest.fail("it climbed again"))
        assert who.has(child)
        who.begin(0)
        assert not who.has(child)


def test_others_are_refused():
    with family() as (top, child):
        who = Senders()
        who.begin(child)
        assert not who.has(top)
        assert not who.has(os.getpid())
        assert not who.has(1)
        who.begin(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can choose a PID")
def test_who_gets_the_pid_of_a_sender_that_has_ended_is_another(monkeypatch: pytest.MonkeyPatch):
    who = Senders()
    with family() as (top, child):
        real = senders.is_below
        pid = start()
        monkeypatch.setattr(senders, "is_below", lambda *_: True)
        who.begin(top)
        assert who.has(pid)
        monkeypatch.setattr(senders, "is_below", real)
        end(pid)
        start_as(pid)
        try:
            assert not who.has(pid)
            assert who.has(child)
        finally:
            end(pid)
            who.begin(0)


def test_no_more_than_some_descriptors_are_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(senders, "KNOWN", 3)
    before = descriptors()
    who = Senders()
    who.begin(os.getpid())
    pids = [start() for _ in range(6)]
    try:
        assert all(who.has(pid) for pid in pids)
        assert descriptors() <= before + 3
    finally:
        for pid in pids:
            end(pid)
    assert not who.has(pids[-1])
    who.begin(0)
    assert descriptors() == before
