"""SIGKILL for ckptrun itself, at every step of a checkpoint and of a restore: nothing is half there afterwards.

The rerun resumes from the newest committed checkpoint and ends as if nothing had happened.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import chain
import psutil
import pytest
from injected import Fault
from support.processes import PATIENCE, POLL_SECONDS
from support.run import RESTORED, STARTED

from ckptrun.store.repository import Lineage, open_backend
from ckptrun.supervisor.workplace import PREFIX

if TYPE_CHECKING:
    from support.run import Lab, Result, Run

pytestmark = pytest.mark.slow

JOB = (sys.executable, Path(__file__).with_name("chain.py"))
OFTEN = ("--interval", "0.3s")

CAPTURE = "ckptrun.criu.capture:Capture"
STORE = "ckptrun.store"

FREEZE = [
    Fault("ckptrun.criu.dumping:dump"),
    Fault("ckptrun.journal:Journal.prepare", "after"),
    Fault("ckptrun.capsule.capsule:Capsule.spawn", "after", about="dump"),
    Fault(f"{CAPTURE}._announce"),
    Fault(f"{CAPTURE}._drain"),
    Fault(f"{CAPTURE}._drain", nth=30),
    Fault(f"{CAPTURE}.wait", "after"),
    Fault("ckptrun.capsule.streams:Streams.freeze", "after"),
    Fault("ckptrun.journal:Journal.capture"),
    Fault("ckptrun.journal:Journal.capture", "after"),
    Fault("ckptrun.criu.postdump:PostDump._answer"),
    Fault("ckptrun.criu.postdump:PostDump._answer", "after"),
    Fault("ckptrun.criu.postdump:PostDump._answer", "after", commits=0),
]
STAGING = [
    Fault("ckptrun.criu.staging:Slot.populate"),
    Fault("ckptrun.journal:Journal.seal", "after"),
    Fault("ckptrun.supervisor.attempt:Attempt._staged", "after"),
    Fault("ckptrun.supervisor.staged:LocalCopies.add", "after"),
    Fault("ckptrun.supervisor.staged:LocalCopies.drop"),
    Fault("ckptrun.supervisor.staged:LocalCopies.drop", "after"),
]
UPLOAD = [
    Fault("ckptrun.supervisor.vault:Vault.upload", "after"),
    Fault(f"{STORE}.writing:Writing._place"),
    Fault(f"{STORE}.packing:put_once", about="/packs/"),
    Fault("os:link", about="/packs/"),
    Fault(f"{STORE}.packing:put_once", "after", about="/packs/"),
    Fault(f"{STORE}.packing:put_once", "after", about="/packs/", commits=0),
    Fault(f"{STORE}.writing:put_once", about="/manifests/"),
    Fault("os:link", about="/manifests/"),
    Fault(f"{STORE}.writing:put_once", "after", about="/manifests/"),
    Fault(f"{STORE}.writing:put_once", "after", about="/manifests/", commits=0),
]
COMMIT = [
    Fault(f"{STORE}.writer:Writer.commit"),
    Fault(f"{STORE}.headfile:HeadFile.write", about="CheckpointRecord", commits=0),
    Fault(f"{STORE}.headchanges:with_checkpoint", "after"),
    Fault("os:link", about="HEAD."),
    Fault("os:link", "after", about="HEAD."),
    Fault(f"{STORE}.headfile:HeadFile.write", "after"),
    Fault(f"{STORE}.headfile:Seen._save", "after"),
    Fault(f"{STORE}.writer:Writer.commit", "after", commits=2),
]


def start(lab: Lab) -> Run:
    return lab.start(*JOB, options=OFTEN)


def crash(lab: Lab, fault: Fault) -> Run:
    """Start a run that is killed by its fault, and return it when nothing of it lives any more."""
    lab.program = fault.program()
    run = start(lab)
    ended = run.wait()
    lab.program = type(lab).program
    assert ended.code == -signal.SIGKILL, ended.err
    nothing_lives(lab, run)
    return run


def nothing_lives(lab: Lab, run: Run) -> None:
    """Check that the job is gone, and CRIU, which has none of the lab's environment, too."""
    lab.expect_nothing_left()
    workplace = f"/{PREFIX}{run.process.pid}-"
    deadline = time.monotonic() + PATIENCE
    while left := [
        p for p in psutil.process_iter(["cmdline"]) if workplace in " ".join(p.info["cmdline"] or ())
    ]:
        assert time.monotonic() < deadline, left
        time.sleep(POLL_SECONDS)


def committed(lab: Lab) -> list[str]:
    """Return the committed checkpoints, newest first, each read back whole."""
    lineage = Lineage(open_backend(lab.store), lab.name, None)
    records = lineage.checkpoints() if lineage.exists() else ()
    for record in records:
        assert lineage.verify(record, quick=False).bad == ()
    return [record.id for record in records]


def finish(lab: Lab, run: Run) -> Result:
    """Let the job end, and check its result."""
    (lab.work / "finish").touch()
    result = run.wait()
    assert result.code == 0, result.err
    assert chain.is_exact(lab.work, result.out), result.err
    return result


def resumes_exactly(lab: Lab, before: list[str]) -> None:
    """Run the same command again: from the newest of the checkpoints `before`, to an exact result."""
    events = len(lab.events())
    run = start(lab)
    if before:
        assert run.event(RESTORED, after=events)["checkpoint"] == before[0]
    else:
        run.event(STARTED, after=events)
    run.commit()
    finish(lab, run)


@pytest.mark.parametrize("fault", [*FREEZE, *STAGING, *UPLOAD, *COMMIT], ids=str)
def test_killed_at_any_step_of_a_checkpoint_the_next_run_goes_on_from_the_newest_one(lab: Lab, fault: Fault):
    run = crash(lab, fault)
    before = committed(lab)
    assert len(before) >= fault.commits
    resumes_exactly(lab, before)
    assert not list(Path("/run").glob(f"{PREFIX}{run.process.pid}-*")), "the next run tidies up"


RESTORE = [
    Fault("ckptrun.supervisor.vault:Vault.load", commits=0),
    Fault("ckptrun.supervisor.restoring:rollback", commits=0),
    Fault("ckptrun.supervisor.restoring:rollback", "after", commits=0),
    Fault("ckptrun.supervisor.incarnation:Incarnation.open", "after", commits=0),
    Fault("ckptrun.criu.serve:Serve._answer", nth=5, commits=0),
    Fault("ckptrun.criu.restoring:restore", "after", commits=0),
]


@pytest.mark.parametrize("fault", RESTORE, ids=str)
def test_killed_while_it_restores_the_next_run_restores_the_same_checkpoint(lab: Lab, fault: Fault):
    run = start(lab)
    run.commit()
    run.kill_supervisor()
    before = committed(lab)
    crash(lab, fault)
    assert committed(lab) == before
    resumes_exactly(lab, before)


def test_killed_again_and_again_at_other_steps_the_result_is_exact(lab: Lab):
    for fault in (FREEZE[4], UPLOAD[2], COMMIT[4], STAGING[2]):
        crash(lab, fault)
    resumes_exactly(lab, committed(lab))
