"""How a run ends while its store is in no mood to let it."""

from __future__ import annotations

import dataclasses
import signal
from typing import TYPE_CHECKING

import pytest
from injected import HOLD, SLEEP, Fault
from support.processes import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

    from support.run import Lab, Run

pytestmark = pytest.mark.slow

HUNG_SECONDS = 10 * PATIENCE
UPLOADS = Fault(
    "ckptrun.store.localfs:LocalBackend.put_if_absent",
    about="packs",
    commits=0,
    act=SLEEP,
    seconds=HUNG_SECONDS,
)
JOB = ("sh", "-c", "until [ -e go ]; do sleep 0.05; done; exit $0")


def held_uploading(lab: Lab, *job: str, options: tuple[str, ...] = ()) -> tuple[Run, Path]:
    """Return a run whose one checkpoint is staged, and on its way to the store while a file exists."""
    gate = lab.folder / "gate"
    held = dataclasses.replace(UPLOADS, act=HOLD, gate=str(gate))
    slow = dataclasses.replace(lab, program=held.program())
    run = slow.start(*job, options=("--interval", "off", *options))
    lab.runs.append(run)
    run.job_pid()
    assert slow.ask("checkpoint").code == 0
    run.until("upload", gate.exists)
    return run, gate


def test_a_run_that_is_given_up_ends_once_its_newest_checkpoint_is_stored(lab: Lab):
    run, gate = held_uploading(lab, *JOB, "4", options=("--restart", "never"))
    (lab.work / "go").touch()
    run.says("is still being stored")
    assert run.alive()
    gate.unlink()
    assert run.wait().code == 4
    (checkpoint,) = lab.checkpoints()
    (lab.work / "go").unlink()
    again = lab.start(*JOB, "4", options=("--interval", "off", "--resume"))
    assert again.event("job-restored")["checkpoint"] == checkpoint["id"]


def test_who_asks_to_stop_a_run_that_ends_gets_the_grace_and_no_more(lab: Lab):
    run, _ = held_uploading(lab, *JOB, "4", options=("--restart", "never", "--grace", "3s"))
    (lab.work / "go").touch()
    run.says("is still being stored")
    run.process.send_signal(signal.SIGTERM)
    run.event("stop-requested")
    run.process.send_signal(signal.SIGTERM)
    assert run.wait().code == 4
    assert lab.checkpoints() == []


@pytest.mark.parametrize("code", [0, 4])
def test_a_job_that_ended_waits_for_a_hanging_upload_within_the_grace_at_most(lab: Lab, code: int):
    slow = dataclasses.replace(lab, program=UPLOADS.program())
    grace = "10m" if code == 0 else "1s"  # the checkpoint of a job that is finished is of no use
    run = slow.start(*JOB, str(code), options=("--interval", "0.5s", "--restart", "never", "--grace", grace))
    lab.runs.append(run)
    run.event("checkpoint-staged")
    (lab.work / "go").touch()
    assert run.wait().code == code
    assert lab.ask("show", "--json").json["exit"] == {"by": "job", "code": code}
    lab.expect_nothing_left()


def test_a_stop_whose_upload_hangs_ends_within_its_grace(lab: Lab):
    slow = dataclasses.replace(lab, program=UPLOADS.program())
    run = slow.start("sleep", "100", options=("--interval", "off", "--grace", "4s"))
    lab.runs.append(run)
    run.job_pid()
    run.process.send_signal(signal.SIGTERM)
    assert run.wait().code == 128 + signal.SIGTERM
    lab.expect_nothing_left()


def test_who_has_stopped_a_run_can_start_it_again_at_once(lab: Lab):
    slow = dataclasses.replace(
        lab, program=Fault("ckptrun.store.writer:Writer.close", commits=0, act=SLEEP, seconds=3.0).program()
    )
    run = slow.start("sleep", "100", options=("--interval", "off"))
    lab.runs.append(run)
    run.job_pid()
    assert lab.ask("stop").code == 0
    assert lab.ask("show", "--json").json["state"] == "interrupted"
    assert run.wait().code == 75
