"""One lineage, several who want to write it, and jobs that fail for good."""

from __future__ import annotations

import signal
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import chain
import psutil
import pytest
from support.run import COMMITTED, RESTORED, Lab

if TYPE_CHECKING:
    from support.run import Run

pytestmark = pytest.mark.slow

JOB = (sys.executable, Path(__file__).with_name("chain.py"))
OFTEN = ("--interval", "0.3s")


def finish(lab: Lab, run: Run) -> str:
    (lab.work / "finish").touch()
    result = run.wait()
    assert result.code == 0, result.err
    assert chain.is_exact(lab.work, result.out), result.err
    return result.err


def steps(lab: Lab) -> int:
    log = lab.work / "log.txt"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def test_take_over_stops_the_other_run_and_goes_on_from_its_newest_checkpoint(lab: Lab, tmp_path: Path):
    first = lab.start(*JOB, options=OFTEN)
    first.commit(2)
    job = psutil.Process(first.job_pid())
    with Lab(tmp_path / "elsewhere", store=lab.store) as elsewhere:
        elsewhere.work = lab.work
        second = elsewhere.start(*JOB, options=(*OFTEN, "--take-over"))
        restored = second.event(RESTORED)["checkpoint"]
        assert not job.is_running(), "two jobs write the same files"
        fenced = first.wait()
        assert (fenced.code, fenced.out) == (79, ""), fenced.err
        assert "taken over" in fenced.err
        assert restored == lab.events(COMMITTED)[-1]["id"]
        second.commit()
        (elsewhere.work / "finish").touch()
        assert second.wait().code == 0


def test_a_run_that_was_taken_over_while_it_was_stopped_commits_nothing_more(lab: Lab, tmp_path: Path):
    first = lab.start(*JOB, options=OFTEN)
    first.commit(2)
    first.process.send_signal(signal.SIGSTOP)
    with Lab(tmp_path / "elsewhere", store=lab.store) as elsewhere:
        second = elsewhere.start(*JOB, options=("--interval", "off", "--take-over", "--fresh"))
        second.job_pid()
        known = {checkpoint["id"] for checkpoint in elsewhere.checkpoints()}
        first.process.send_signal(signal.SIGCONT)
        assert first.wait().code == 79
        assert {checkpoint["id"] for checkpoint in elsewhere.checkpoints()} == known
        assert second.alive()
    lab.expect_nothing_left()


def test_a_second_signal_does_not_wait_for_the_checkpoint(lab: Lab):
    run = lab.start(*JOB, "0", "ignore-term", options=("--interval", "off", "--grace", "1000s"))
    run.until("steps", lambda: steps(lab) > 5)
    pid = run.job_pid()
    fault = "the store is away"
    store = Path(lab.store.removeprefix("file://"))
    (store / lab.name / "packs").write_text(fault)  # no pack can be written, ever
    run.process.terminate()
    run.until("hold", lambda: lab.events("commit-failed"))
    time.sleep(1.1)  # closer together they are one
    run.process.terminate()
    result = run.wait()
    assert result.code == 128 + signal.SIGTERM, result.err
    assert "asked twice" in result.err
    assert not Path(f"/proc/{pid}").exists()


def test_a_stop_whose_checkpoint_cannot_be_stored_gives_the_job_its_signal_within_the_grace(lab: Lab):
    run = lab.start(*JOB, options=("--interval", "off", "--grace", "3s"))
    run.until("steps", lambda: steps(lab) > 5)
    store = Path(lab.store.removeprefix("file://"))
    (store / lab.name / "packs").write_text("in the way")
    run.process.terminate()
    result = run.wait()
    begun, ended = (
        datetime.fromisoformat(lab.events(name)[0]["time"]) for name in ("stop-requested", "run-ended")
    )
    assert (ended - begun).total_seconds() < 25, "the default grace is 30 s"
    assert result.code == 128 + signal.SIGTERM, result.err
    assert "gets SIGTERM instead" in result.err


FAILING = """
import sys, time
from pathlib import Path
value = 0
log = open("log.txt", "a", buffering=1)
while not Path("trigger").exists():
    value += 1
    log.write(f"{value}\\n")
    time.sleep(0.01)
sys.exit(5)
"""


def test_a_job_that_fails_the_same_way_after_every_checkpoint_is_given_up_with_an_account(lab: Lab):
    run = lab.start(sys.executable, "-c", FAILING, options=OFTEN)
    run.commit(2)
    ids = [event["id"] for event in lab.events(COMMITTED)]
    (lab.work / "trigger").touch()
    result = run.wait()
    assert result.code == 5, result.err
    assert "giving up" in result.err
    assert "exit code 5" in result.err
    assert any(checkpoint in result.err for checkpoint in ids)
    assert len(lab.events("checkpoint-poisoned")) >= 2, "it stepped back to older ones first"
    (row,) = lab.ask("ls", "--json").json
    assert (row["state"], row["exit"]) == ("failed", {"by": "job", "code": 5})


def test_after_a_poisoned_checkpoint_an_older_one_gets_the_job_through_also_in_the_next_run(lab: Lab):
    """The job keeps a flaw in its memory: what was taken after it cannot end well, what was taken before can."""
    script = (
        "import sys, time\nfrom pathlib import Path\n"
        "flawed = False\n"
        "while not Path('finish').exists():\n"
        "    if Path('flaw').exists():\n"
        "        flawed = True\n"
        "        Path('flaw').unlink()\n"
        "    if flawed and Path('trigger').exists(): sys.exit(5)\n"
        "    time.sleep(0.01)\n"
        "print('through')\n"
    )
    command = (sys.executable, "-c", script)
    run = lab.start(*command, options=("--interval", "off"))
    good = run.checkpoint()
    (lab.work / "flaw").touch()
    run.until("the flaw", lambda: not (lab.work / "flaw").exists())
    run.checkpoint()
    (lab.work / "trigger").touch()
    run.until(
        "restore of the good one",
        lambda: lab.events(RESTORED)[-1:] and lab.events(RESTORED)[-1]["checkpoint"] == good,
    )
    run.says("set aside")
    before = len(lab.events())
    run.kill_supervisor()
    run = lab.start(*command, options=("--interval", "off"))
    assert run.event(RESTORED, after=before)["checkpoint"] == good
    (lab.work / "finish").touch()
    result = run.wait()
    assert (result.code, result.out) == (0, "through\n"), result.err
    assert len(lab.events("checkpoint-poisoned")) == 1


def test_restore_at_with_an_unknown_id_is_refused(lab: Lab):
    run = lab.start(*JOB, options=OFTEN)
    run.commit()
    run.kill_supervisor()
    asked = lab.ask("restore", "--at", "nothing-0001")
    assert asked.code in {64, 74}, asked.err
    assert "nothing-0001" in asked.err
    assert asked.out == ""
