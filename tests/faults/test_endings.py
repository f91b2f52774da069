"""How a run ends while its store is in no mood to let it."""

from __future__ import annotations

import dataclasses
import signal
from typing import TYPE_CHECKING

from injected import SLEEP, Fault
from support.processes import PATIENCE

if TYPE_CHECKING:
    from support.run import Lab

HUNG_SECONDS = 10 * PATIENCE
UPLOADS = Fault(
    "ckptrun.store.localfs:LocalBackend.put_if_absent",
    about="packs",
    commits=0,
    act=SLEEP,
    seconds=HUNG_SECONDS,
)
JOB = ("sh", "-c", "until [ -e go ]; do sleep 0.05; done; exit 4")


def test_a_job_that_ended_does_not_wait_for_an_upload_that_hangs(lab: Lab):
    slow = dataclasses.replace(lab, program=UPLOADS.program())
    run = slow.start(*JOB, options=("--interval", "0.5s", "--restart", "never"))
    lab.runs.append(run)
    run.event("checkpoint-staged")
    (lab.work / "go").touch()
    assert run.wait().code == 4
    assert lab.ask("show", "--json").json["exit"] == {"by": "job", "code": 4}
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
