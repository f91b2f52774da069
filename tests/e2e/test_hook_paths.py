"""Hooks on the paths where something fails beside them: uploads, jobs, ckptrun itself, and who has the lineage."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hooked import CHECKPOINT, JOB, contexts, phases
from support.run import COMMITTED, RESTORED, Lab

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("held")]

RESTORE = ["pre-restore", "post-restore"]
WAITS = """
import time
if phase == {phase!r} and (kept / "hold").exists():
    (kept / "waits").touch()
    while (kept / "hold").exists(): time.sleep(0.01)
"""


def test_an_upload_that_fails_has_no_hooks_of_a_commit_until_it_is_one(lab: Lab, hook: Callable[..., str]):
    run = lab.start(*JOB, options=("--hook", hook()))
    run.job_pid()
    run.event("job-started")
    packs = Path(lab.store.removeprefix("file://")) / lab.name / "packs"
    packs.write_text("in the way")
    assert lab.ask("checkpoint").code == 0
    run.event("commit-failed")
    assert phases(lab) == CHECKPOINT
    packs.unlink()
    name = run.event(COMMITTED)["id"]
    run.until("post-commit", lambda: phases(lab) == [*CHECKPOINT, "post-commit"])
    assert contexts(lab)[-1]["kept"] == [name]
    assert run.finish().code == 0
    assert phases(lab)[3:] == ["on-exit"]


def test_what_retention_has_let_go_is_not_among_what_can_still_be_restored(
    lab: Lab, hook: Callable[..., str]
):
    spec = f"{hook()}?phases=post-commit"
    run = lab.start(*JOB, options=("--hook", spec, "--keep", "last=2"))
    names = [run.checkpoint() for _ in range(3)]
    run.until("hooks", lambda: len(phases(lab)) == 3)
    assert [given["kept"] for given in contexts(lab)] == [names[:1], names[:2], names[1:]]
    assert run.finish().code == 0


def test_a_job_that_dies_while_a_checkpoint_begins_has_it_closed_before_it_is_restored(
    lab: Lab, hook: Callable[..., str]
):
    run = lab.start(*JOB, options=("--hook", hook(WAITS.format(phase="pre-checkpoint"))))
    run.checkpoint()
    run.until("post-commit", lambda: phases(lab) == [*CHECKPOINT, "post-commit"])
    (lab.folder / "hooks" / "hold").touch()
    asking = threading.Thread(target=lab.ask, args=("checkpoint",))
    asking.start()
    run.until("the hook", (lab.folder / "hooks" / "waits").exists)
    before = len(lab.events())
    run.kill_job()
    (lab.folder / "hooks" / "hold").unlink()
    run.event(RESTORED, after=before)
    asking.join()
    assert phases(lab)[3:] == [*CHECKPOINT, "on-failure", *RESTORE]
    assert not contexts(lab)[4]["outcome"]["ok"]
    assert run.finish().code == 0


def test_a_job_that_is_given_up_has_a_failure_each_time_and_one_end(lab: Lab, hook: Callable[..., str]):
    run = lab.start(*JOB, "--fail-at", 10, options=("--hook", hook()))
    run.checkpoint()
    assert run.finish().code == 3
    told = phases(lab)
    failures = told.count("on-failure")
    assert failures >= 2
    assert told[3:] == ["on-failure", *[*RESTORE, "on-failure"] * (failures - 1), "on-exit"]
    assert contexts(lab)[-1]["exit"] == {"by": "job", "code": 3, "final": False}


def test_a_run_that_is_taken_over_ends_with_its_hooks(lab: Lab, hook: Callable[..., str], tmp_path: Path):
    run = lab.start(*JOB, options=("--hook", hook()))
    run.checkpoint()
    run.until("post-commit", lambda: "post-commit" in phases(lab))
    with Lab(tmp_path / "elsewhere", store=lab.store, options=("--interval", "off")) as elsewhere:
        elsewhere.work = lab.work
        second = elsewhere.start(*JOB, options=("--take-over",))
        second.event(RESTORED)
        assert run.wait().code == 79
        assert phases(lab)[3:] == ["on-exit"]
        assert contexts(lab)[-1]["exit"] == {"by": "ckptrun", "code": 79, "final": False}
        lab.release()
        assert second.wait().code == 0


def test_what_a_killed_ckptrun_has_left_open_is_for_the_next_runs_restore(lab: Lab, hook: Callable[..., str]):
    """Nobody closes the bracket of a run that is no more: pre-restore is the next that a hook hears."""
    spec = hook(WAITS.format(phase="post-checkpoint"))
    run = lab.start(*JOB, options=("--hook", spec))
    run.checkpoint()
    run.until("post-commit", lambda: phases(lab) == [*CHECKPOINT, "post-commit"])
    (lab.folder / "hooks" / "hold").touch()
    asking = threading.Thread(target=lab.ask, args=("checkpoint",))
    asking.start()
    run.until("the hook", (lab.folder / "hooks" / "waits").exists)
    run.kill_supervisor()
    asking.join()
    (lab.folder / "hooks" / "hold").unlink()
    again = lab.start(*JOB, options=("--hook", spec))
    again.event(RESTORED)
    assert again.finish().code == 0
    assert phases(lab)[3:] == [*CHECKPOINT, *RESTORE, "on-exit"]
    assert [given["epoch"] for given in contexts(lab)[3:]] == [1, 1, 2, 2, 2]
