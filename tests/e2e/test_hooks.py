"""Hooks around real jobs: every phase in its place on every path, data that travels, vetoes and failures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hooked import CHECKPOINT, JOB, calls, contexts, phases
from support.as_user import UNNAMED
from support.run import COMMITTED, RESTORED

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.run import Lab

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("held")]


def test_phases_of_a_run_with_a_failure_and_a_restore(lab: Lab, hook: Callable[..., str]):
    run = lab.start(*JOB, options=("--hook", hook()))
    name = run.checkpoint()
    run.restored(run.kill_job)
    assert run.finish().code == 0
    assert phases(lab) == [*CHECKPOINT, "post-commit", "on-failure", "pre-restore", "post-restore", "on-exit"]
    before, after, committed, failed, to_restore, back, ended = contexts(lab)
    assert {given["checkpoint"]["id"] for given in (before, after, committed, to_restore, back)} == {name}
    assert len(before["job"]["pids"]) == 2
    assert before["job"]["root"].startswith("/proc/")
    assert after["outcome"] == {"ok": True, "error": None}
    assert committed["kept"] == [name]
    assert [given["phase"] for given in contexts(lab) if given["kept"] is not None] == ["post-commit"]
    assert failed["cause"] == {"kind": "signal", "code": None, "signal": 9, "text": "SIGKILL"}
    assert (failed["incarnation"], to_restore["incarnation"], back["incarnation"]) == (1, 2, 2)
    assert to_restore["job"]["pids"] == []
    assert len(back["job"]["pids"]) == 2
    assert back["outcome"]["ok"]
    assert ended["exit"] == {"by": "job", "code": 0, "final": True}
    assert before["epoch"] == 1
    assert before["options"] == {}
    assert [phase for phase, _ in calls(lab)] == phases(lab)


def test_several_hooks_close_in_the_reverse_order_and_a_folder_beside_the_file_is_used(
    lab: Lab, hook: Callable[..., str]
):
    for place in ("pre-checkpoint/1", "post-checkpoint/1"):
        path = lab.work / "hooks.d" / place
        path.parent.mkdir(parents=True)
        path.write_text("#!/bin/sh\nexit 0\n")
        path.chmod(0o755)
    (lab.work / "ckptrun.toml").write_text(
        f'[hooks."{hook(name="a")}"]\nphases = "pre-checkpoint,post-checkpoint"\n'
    )
    run = lab.start(
        *JOB, options=("--hook", f"{hook(name='b')}?phases=pre-checkpoint&phases=post-checkpoint")
    )
    run.checkpoint()
    run.finish()
    order = [(event["hook"], event["phase"]) for event in lab.events("hook")]
    assert order == [
        *((name, "pre-checkpoint") for name in ("1", "a", "b")),
        *((name, "post-checkpoint") for name in ("b", "a", "1")),
    ]


def test_data_goes_with_the_checkpoint_to_another_machine(lab: Lab, hook: Callable[..., str]):
    spec = hook("""
if phase == "pre-checkpoint": answer["data"] = {"position": 42}
if phase == "post-checkpoint": answer["data"] = {"seen": given["data"]}
if phase == "pre-restore": answer["data"] = {"undone": 3}
""")
    run = lab.start(*JOB, options=("--hook", spec))
    run.checkpoint()
    stored = {"position": 42, "seen": {"position": 42}}
    run.until("post-commit", lambda: "post-commit" in phases(lab))
    assert contexts(lab)[-1]["data"] == stored
    run.kill_supervisor()
    lab.lose_machine()
    again = lab.start(*JOB, options=("--hook", spec))
    again.event(RESTORED)
    assert again.finish().code == 0
    told = {given["phase"]: given["data"] for given in contexts(lab)}
    assert told["pre-restore"] == stored
    assert told["post-restore"] == {**stored, "undone": 3}
    assert contexts(lab)[-1]["epoch"] == 2


def test_a_veto_skips_the_checkpoint_and_the_job_runs_on(lab: Lab, hook: Callable[..., str]):
    spec = hook("""
if phase == "pre-checkpoint" and not (kept / "through").exists():
    answer.update(outcome="veto", reason="a backup runs", retry_after=5)
""")
    run = lab.start(*JOB, options=("--hook", spec))
    run.job_pid()
    run.event("job-started")
    run.until("staging", lambda: run.status()["staging_bytes"])
    asked = lab.ask("checkpoint", "--wait")
    assert asked.code == 76
    assert "hook hook: a backup runs; another try makes sense in 5 s" in asked.err
    assert phases(lab) == CHECKPOINT
    assert contexts(lab)[1]["outcome"] == {"ok": False, "error": "hook hook: a backup runs"}
    assert lab.events("checkpoint-skipped")
    (lab.folder / "hooks" / "through").touch()
    run.checkpoint()
    assert run.finish().code == 0


def test_a_dump_that_fails_still_closes_its_bracket(lab: Lab, hook: Callable[..., str]):
    code = (
        "import os, time, pathlib\nfd = os.eventfd(2, os.EFD_SEMAPHORE)\nprint('ready', flush=True)\n"
        "while not pathlib.Path('go').exists(): time.sleep(0.01)"
    )
    run = lab.start(sys.executable, "-c", code, options=("--hook", hook()))
    run.refused("semaphore")
    assert phases(lab) == CHECKPOINT
    assert not contexts(lab)[1]["outcome"]["ok"]
    assert "semaphore" in contexts(lab)[1]["outcome"]["error"]
    (lab.work / "go").touch()
    assert run.wait().code == 0
    assert phases(lab)[-1] == "on-exit"


def test_a_hook_that_fails_before_a_restore_ends_the_run_and_the_same_command_goes_on(
    lab: Lab, hook: Callable[..., str]
):
    spec = hook('if phase == "pre-restore" and not (kept / "up").exists(): sys.exit("the database is down")')
    run = lab.start(*JOB, options=("--hook", spec))
    run.checkpoint()
    run.kill_job()
    result = run.wait()
    assert result.code == 74
    assert "hook hook failed: the database is down" in result.err
    assert "the same command goes on from it" in result.err
    seen = phases(lab)
    assert seen[3:] == ["on-failure", *["pre-restore", "post-restore"] * 4, "on-exit"]
    assert {given["outcome"]["ok"] for given in contexts(lab) if given["phase"] == "post-restore"} == {False}
    (lab.folder / "hooks" / "up").touch()
    again = lab.start(*JOB, options=("--hook", spec))
    again.event(RESTORED, after=len(lab.events()) - 1 if lab.events(RESTORED) else 0)
    assert again.finish().code == 0


def test_a_hook_that_fails_after_a_restore_leaves_no_job_running(lab: Lab, hook: Callable[..., str]):
    spec = hook("""
if phase == "post-restore" and given["outcome"]["ok"] and not (kept / "once").exists():
    (kept / "once").touch()
    sys.exit("the GPU did not come back")
""")
    run = lab.start(*JOB, options=("--hook", spec))
    run.checkpoint()
    run.restored(run.kill_job)
    assert run.finish().code == 0
    assert [event["reason"] for event in lab.events("restore-failed")] == [
        "hook hook failed: the GPU did not come back"
    ]
    assert [given["incarnation"] for given in contexts(lab) if given["phase"] == "post-restore"] == [2, 3]


def test_a_restore_that_fails_for_another_reason_still_closes_its_bracket(lab: Lab, hook: Callable[..., str]):
    (lab.work / "input").write_text("read only, and so not the journal's")
    code = "import time\nfile = open('input')\nprint('ready', flush=True)\ntime.sleep(1000)"
    spec = hook("if phase == 'pre-restore': pathlib.Path('input').unlink(missing_ok=True)")
    run = lab.start(sys.executable, "-c", code, options=("--hook", spec))
    run.prints("ready")
    run.checkpoint()
    run.kill_job()
    assert run.wait().code == 74
    assert phases(lab)[3:] == ["on-failure", *["pre-restore", "post-restore"] * 2, "on-exit"]
    ends = [given for given in contexts(lab) if given["phase"] == "post-restore"]
    assert [given["outcome"]["ok"] for given in ends] == [False, False]
    assert "input" in ends[0]["outcome"]["error"]


def test_a_hook_that_hangs_is_killed_and_the_run_goes_on(lab: Lab, hook: Callable[..., str]):
    spec = hook('import time\nif phase == "post-commit": time.sleep(1000)')
    run = lab.start(*JOB, options=("--hook", f"{spec}?timeout=1s"))
    run.checkpoint()
    event = run.until("its end", lambda: [e for e in lab.events("hook") if e["phase"] == "post-commit"])[0]
    assert (event["outcome"], event["reason"]) == ("failed", "it did not end within 1 s and was killed")
    result = run.finish()
    assert result.code == 0
    assert (
        "hook hook failed in post-commit: it did not end within 1 s and was killed; the run goes on"
        in result.err
    )


def test_a_hook_does_not_outlive_a_killed_ckptrun(lab: Lab, hook: Callable[..., str]):
    spec = hook('import time\nif phase == "post-commit": (kept / "pid").touch(); time.sleep(1000)')
    run = lab.start(*JOB, options=("--hook", spec))
    run.checkpoint()
    run.until("the hook", (lab.folder / "hooks" / "pid").exists)
    run.kill_supervisor()  # it sees that nothing is left


def test_a_stop_takes_its_checkpoint_with_the_hooks_and_ends_with_them(lab: Lab, hook: Callable[..., str]):
    run = lab.start(
        *JOB, options=("--hook", hook(), "--grace", "10m")
    )  # which the held dump does not wait for
    run.job_pid()
    run.until("staging", lambda: run.status()["staging_bytes"])
    run.process.terminate()
    assert run.wait().code == 75
    assert sorted(phases(lab)) == sorted([*CHECKPOINT, "post-commit", "on-exit"])
    assert phases(lab)[-1] == "on-exit"
    assert contexts(lab)[-1]["exit"] == {"by": "ckptrun", "code": 75, "final": False}
    assert len(lab.events(COMMITTED)) == 1


def test_the_job_does_not_start_with_a_hook_that_cannot_be_run(lab: Lab):
    (lab.work / "hook").write_text("#!/bin/sh\n")
    result = lab.run("touch", "started", options=("--hook", "./hook"))
    assert result.code == 78
    assert "hook is not executable" in result.err
    assert not (lab.work / "started").exists()


def test_a_hook_gets_no_secret_of_ckptruns(lab: Lab, hook: Callable[..., str]):
    lab.environment = {"CKPTRUN_PASSPHRASE": "very secret", "TOKEN": "for the hook", "MINE": "here"}
    spec = hook("(kept / 'environment').write_text(json.dumps(dict(os.environ)))")
    run = lab.start(*JOB, options=("--hook", f"{spec}?token=$TOKEN&phases=on-exit"))
    run.job_pid()
    run.finish()
    environment = json.loads((lab.folder / "hooks" / "environment").read_text())
    assert "very secret" not in environment.values()
    assert environment["MINE"] == "here"
    assert environment["CKPTRUN_PHASE"] == "on-exit"
    assert contexts(lab)[-1]["options"] == {"token": "for the hook"}


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes an ordinary user")
def test_an_ordinary_users_hooks_run_as_that_user(ordinary: Lab):
    path = ordinary.work / "tell"
    path.write_text('#!/bin/sh\necho "$CKPTRUN_PHASE $(id -u)" >> told\n')
    path.chmod(0o755)
    ordinary.hold()
    run = ordinary.start(*JOB, options=("--hook", "./tell"))
    run.checkpoint()
    assert run.finish().code == 0
    told = (ordinary.work / "told").read_text().splitlines()
    assert told == [f"{phase} {UNNAMED}" for phase in (*CHECKPOINT, "post-commit", "on-exit")]


def test_a_rollback_that_the_job_asks_for_is_a_failure_with_its_reason(lab: Lab, hook: Callable[..., str]):
    code = """
import pathlib, time
from ckptrun import job
print("ready", flush=True)
while not pathlib.Path("go").exists(): time.sleep(0.01)
if job.restores() == 0: job.rollback("the loss is no number")
"""
    run = lab.start(sys.executable, "-c", code, options=("--hook", hook()))
    run.prints("ready")
    run.checkpoint()
    (lab.work / "go").touch()
    assert run.wait().code == 0
    (cause,) = [given["cause"] for given in contexts(lab) if given["phase"] == "on-failure"]
    assert cause["kind"] == "rollback"
    assert "the loss is no number" in cause["text"]


def test_a_restore_of_choice_takes_hooks_from_where_it_is_started(lab: Lab, hook: Callable[..., str]):
    run = lab.start(*JOB)
    name = run.checkpoint()
    run.kill_supervisor()
    hook()
    lab.release()
    argv = lab.argv(
        "restore", lab.name, "--store", lab.store, "--at", name, "--hook", "./hook", "--interval", "off"
    )
    done = subprocess.run(
        argv,
        cwd=lab.folder / "hooks",
        env=lab.env,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert phases(lab) == ["pre-restore", "post-restore", "on-exit"]
    assert {given["job"]["cwd"] for given in contexts(lab)} == {str(lab.work)}


def test_before_the_hooks_of_a_restore_of_choice_are_through_nothing_is_left_behind(
    lab: Lab, hook: Callable[..., str]
):
    """A hook may refuse the older checkpoint: then the lineage goes on from the newest, as if nobody had asked."""
    run = lab.start(*JOB)
    chosen = run.checkpoint()
    run.checkpoint()
    run.kill_supervisor()
    spec = hook("""
import time
if phase == "pre-restore":
    (kept / "waits").touch()
    while True: time.sleep(0.01)
""")
    back = lab.restore("--at", chosen, "--hook", spec)
    back.until("the hook", (lab.folder / "hooks" / "waits").exists)
    back.kill_supervisor()
    assert [checkpoint["set_aside"] for checkpoint in lab.checkpoints()] == [False, False]


def test_a_stop_while_a_hook_runs_before_a_restore_leaves_the_files_and_closes_the_bracket(
    lab: Lab, hook: Callable[..., str]
):
    spec = hook("""
import time
if phase == "pre-restore":
    (kept / "waits").touch()
    while not (kept / "go").exists(): time.sleep(0.01)
""")
    run = lab.start(*JOB, options=("--hook", spec))
    run.checkpoint()
    (lab.work / "log.txt").rename(lab.work / "kept")
    run.kill_job()
    run.until("the hook", (lab.folder / "hooks" / "waits").exists)
    run.process.terminate()
    run.event("run-ended")
    (lab.folder / "hooks" / "go").touch()
    assert run.wait().code == 75
    assert phases(lab)[3:] == ["on-failure", "pre-restore", "post-restore", "on-exit"]
    assert contexts(lab)[-2]["outcome"] == {"ok": False, "error": "the run is over"}
    assert not (lab.work / "log.txt").exists()
