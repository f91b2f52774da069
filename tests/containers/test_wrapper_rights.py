"""What the wrapper needs each of its capabilities for: what fails, and with which words, where one is taken away."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from support.careless import CARELESS
from wrapping import CAPABILITIES, JOBS, UID, Wrapped, kill, security

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from podman import Container, Podman

pytestmark = pytest.mark.slow

COUNT = ("python3", str(JOBS / "count.py"), "--steps", "20", "--talk")
FAILS = {
    "SYS_ADMIN": ("start", 77, "the capsule cannot be made: clone namespaces: Operation not permitted"),
    "SYS_PTRACE": ("dump", 0, "failed: CRIU failed with 1"),
    "SYS_TIME": ("restore", 74, "the capsule cannot be made: timens offsets: Operation not permitted"),
    "SETUID": ("start", 70, f"this thread may not act as user {UID}"),
    "SETGID": ("start", 70, "Operation not permitted: 'setgroups'"),
    "SETPCAP": ("start", 70, "Operation not permitted: 'credentials'"),
    "DAC_OVERRIDE": ("start", 70, "Permission denied: '/state/"),
    "KILL": ("signal", 75, ""),
}
"""The step that fails, what ckptrun ends with then, and what it says."""
NOT_NEEDED = {"SYS_CHROOT"}
"""By the wrapper; the sidecar does (`tests/e2e/test_sidecar_rights.py`), and a pod asks for one list in both modes."""


@pytest.fixture
def wrapped(podman: Podman, ckptrun_image: str, tmp_path: Path) -> Iterator[Wrapped]:
    made = Wrapped(podman, ckptrun_image, tmp_path)
    made.hold()
    yield made
    made.close()


def failed_step(wrapped: Wrapped, container: Container, missing: str) -> str:
    """Take a job from its start to its end; return the first step that is not done, and nothing if all are."""
    container.until("a job, or its end", lambda: wrapped.lines() or not container.alive())
    if not wrapped.lines():
        return "start"
    if wrapped.ask(container, "checkpoint", "--wait", check=False).code != 0:
        return "dump"
    kill(wrapped.job(container))
    container.until("a restore, or its end", lambda: wrapped.events("job-restored") or not container.alive())
    if not wrapped.events("job-restored"):
        return "restore"
    container.kill(signal.SIGUSR2)  # for the job, which dies of it
    if missing == "KILL":
        container.kill(signal.SIGTERM)  # taken after the one before, which has a lower number
        container.wait()
    else:
        container.until("a second restore", lambda: len(wrapped.events("job-restored")) == 2)
        container.kill(signal.SIGTERM)
    return "" if any(one["signal"] == signal.SIGUSR2 for one in wrapped.events("job-ended")) else "signal"


def test_each_capability_is_asked_for_by_a_test():
    assert {*FAILS, *NOT_NEEDED} == {*CAPABILITIES}


@pytest.mark.parametrize("missing", ["", *CAPABILITIES])
def test_each_capability_is_needed(wrapped: Wrapped, missing: str):
    """Without it a ckptrun that does not look fails at one step and says why; with all of them at none."""
    container = wrapped.start(*COUNT, program=("-c", CARELESS), how=security(without=missing))
    step, code, words = FAILS.get(missing, ("", 75, ""))
    assert failed_step(wrapped, container, missing) == step, container.story()
    if step == "dump":
        wrapped.release()
    assert container.wait() == code, container.story()
    assert words in container.err
