"""What a run does with its hooks: order, policies, brackets, data, post-conditions."""

from __future__ import annotations

import json
import os
import resource
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hookkit import AFTER, BEFORE, CHECKPOINT, COMMITTED, Parts, script
from support.processes import PATIENCE, POLL_SECONDS

from ckptrun.errors import HookError
from ckptrun.hooking import options
from ckptrun.hooking import phases as phases_module
from ckptrun.hooking.contract import Checkpoint, Occasion, Outcome, Phase
from ckptrun.hooking.notes import VETO_AGAIN_SECONDS, VETO_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(POLL_SECONDS)


RESTORE = Occasion(Phase.PRE_RESTORE, 2, CHECKPOINT)
RESTORED = Occasion(
    Phase.POST_RESTORE, 2, CHECKPOINT, (10, 11), 11, "/proc/9/root", {"ok": True, "error": None}
)
OK, FAILED = "ok", "failed"


def test_a_context_is_as_the_schema_says_in_every_phase(tmp_path: Path):
    script(tmp_path / "h", f"json.dump(given, open({str(tmp_path)!r} + '/' + given['phase'], 'w'))")
    parts = Parts(tmp_path, "./h?to=me")
    more = {
        Phase.ON_FAILURE: {"cause": {"kind": "signal", "code": None, "signal": 9, "text": "SIGKILL"}},
        Phase.POST_COMMIT: {"kept": ("abc-0001", "pinned")},
        Phase.ON_EXIT: {"exit": {"by": "job", "code": 0, "final": True}},
        Phase.POST_RESTORE: {"outcome": {"ok": False, "error": "no"}},
    }
    for phase in Phase:
        occasion = Occasion(phase, 3, CHECKPOINT, (10, 11), 11, "/proc/9/root", **more.get(phase, {}))
        assert parts.hooks.call(parts["h"], occasion, {"seen": 1}).result.outcome is Outcome.OK
        given = json.loads((tmp_path / phase).read_text())
        assert options.invalid(given, options.schema("context")) == ""
    assert given == {
        "version": 1, "phase": "on-exit", "hook": "h", "lineage": "train", "run": "run-1", "epoch": 7, "incarnation": 3,
        "checkpoint": {"id": "abc-0001", "trigger": "request", "created": 1.0},
        "job": {"command": ["python", "train.py"], "cwd": str(tmp_path), "pids": [10, 11], "root": "/proc/9/root"},
        "outcome": None, "cause": None, "exit": {"by": "job", "code": 0, "final": True}, "kept": None,
        "options": {"to": "me"}, "timeout": 30.0, "data": {"seen": 1}, "messages": None, "dry_run": False,
    }  # fmt: skip


def test_a_hooks_environment_is_the_jobs_and_a_few_words(tmp_path: Path):
    script(tmp_path / "h", "answer(data=dict(os.environ, cwd=os.getcwd()))")
    parts = Parts(tmp_path, "./h")
    parts.environment["JOB"] = "its own"
    data = parts.hooks.call(parts["h"], RESTORED, None).result.data
    assert data is not None
    data.pop("LC_CTYPE", None)
    assert data == {
        **parts.environment,
        "CKPTRUN_PHASE": "post-restore",
        "CKPTRUN_LINEAGE": "train",
        "CKPTRUN_CHECKPOINT": "abc-0001",
        "CKPTRUN_INCARNATION": "2",
        "CKPTRUN_JOB_PID": "11",
        "cwd": str(tmp_path),
    }


def test_brackets_close_in_the_reverse_order(tmp_path: Path):
    for name in "ab":
        script(tmp_path / name, "", python=False)
    parts = Parts(tmp_path, "./a", "./b")
    bracket = parts.hooks.bracket(BEFORE)
    bracket.open()
    assert bracket.close(AFTER) == ""
    assert [(hook, phase) for hook, phase, _ in parts.calls()] == [
        ("a", "pre-checkpoint"),
        ("b", "pre-checkpoint"),
        ("b", "post-checkpoint"),
        ("a", "post-checkpoint"),
    ]


def test_a_veto_ends_the_opening_and_closes_what_was_begun_and_nothing_else(tmp_path: Path):
    script(tmp_path / "a", "", python=False)
    script(
        tmp_path / "b",
        'answer(outcome="veto", reason="a backup runs", retry_after=7) if "pre" in given["phase"] else 0',
    )
    script(tmp_path / "c", "", python=False)
    script(tmp_path / "d", "", python=False)
    parts = Parts(tmp_path, "./a", "./b", "./c", "./d?phases=post-checkpoint")
    bracket = parts.hooks.bracket(BEFORE)
    with pytest.raises(HookError) as error:
        bracket.open()
    assert (error.value.message, error.value.skipped, error.value.retry_after) == (
        "hook b: a backup runs",
        True,
        7.0,
    )
    bracket.close(AFTER)
    closed = [hook for hook, phase, _ in parts.calls() if phase == "post-checkpoint"]
    assert closed == ["d", "b", "a"]


def test_a_failed_opening_hook_aborts_unless_it_is_to_be_ignored(tmp_path: Path):
    script(tmp_path / "bad", "echo 'no route' >&2; exit 1", python=False)
    parts = Parts(tmp_path, "./bad?policy=ignore&phases=pre-checkpoint")
    parts.hooks.bracket(BEFORE).open()
    assert parts.told == ["hook bad failed in pre-checkpoint: no route; the run goes on"]
    with pytest.raises(HookError, match="hook bad failed: no route") as error:
        Parts(tmp_path, "./bad?phases=pre-checkpoint").hooks.bracket(BEFORE).open()
    assert not error.value.skipped


def test_a_failed_post_checkpoint_is_told_and_a_failed_post_restore_aborts(tmp_path: Path):
    script(
        tmp_path / "bad",
        "[ $CKPTRUN_PHASE = pre-checkpoint ] || [ $CKPTRUN_PHASE = pre-restore ]",
        python=False,
    )
    parts = Parts(tmp_path, "./bad")
    bracket = parts.hooks.bracket(BEFORE)
    bracket.open()
    assert bracket.close(AFTER) == ""
    assert len(parts.told) == 1
    restore = parts.hooks.bracket(RESTORE)
    restore.open()
    assert restore.close(RESTORED) == "hook bad failed: exit code 1"


def test_the_same_complaint_is_told_once_until_it_changes(tmp_path: Path):
    script(tmp_path / "bad", "cat why >&2; exit 1", python=False)
    parts = Parts(tmp_path, "./bad?phases=post-commit")
    for why in ("down", "down", "full", "down"):
        (tmp_path / "why").write_text(why)
        parts.hooks.later(COMMITTED)
        parts.hooks.settle()
    assert [line.split(": ")[1] for line in parts.told] == [
        f"{w}; the run goes on" for w in ("down", "full", "down")
    ]


def test_data_goes_from_opening_to_closing_and_stays_with_the_checkpoint(tmp_path: Path):
    body = 'answer(data={given["phase"]: given["data"]})'
    script(tmp_path / "h", body)
    script(tmp_path / "other", 'answer(data={"mine": given["data"]})')
    parts = Parts(tmp_path, "./h", "./other?phases=pre-checkpoint")
    bracket = parts.hooks.bracket(BEFORE)
    bracket.open()
    bracket.close(AFTER)
    assert bracket.data == {
        "h": {"pre-checkpoint": None, "post-checkpoint": {"pre-checkpoint": None}},
        "other": {"mine": None},
    }
    restore = parts.hooks.bracket(RESTORE, bracket.data)
    restore.open()
    assert restore.data["h"]["pre-restore"] == bracket.data["h"]


def test_a_hook_that_has_not_done_what_is_required_has_failed(tmp_path: Path):
    script(tmp_path / "lazy", 'answer(done=["connected"])')
    parts = Parts(tmp_path, "./lazy?require=connected,savepoint")
    with pytest.raises(HookError, match="it ended well and has not done what is required: savepoint"):
        parts.hooks.bracket(BEFORE).open()
    script(tmp_path / "lazy", 'answer(done=["connected", "savepoint"])')
    parts.hooks.bracket(BEFORE).open()


def test_saying_nothing_is_not_having_done_it(tmp_path: Path):
    script(tmp_path / "silent", "exit 0", python=False)
    parts = Parts(tmp_path, "./silent?require=savepoint&phases=post-commit")
    assert parts.hooks.call(parts["silent"], COMMITTED, None).result.outcome is Outcome.FAILED


def test_a_veto_outside_pre_checkpoint_is_a_failure(tmp_path: Path):
    script(tmp_path / "h", 'answer(outcome="veto", reason="no")')
    parts = Parts(tmp_path, "./h")
    with pytest.raises(HookError, match=r"a veto means nothing in pre-restore \(no\)"):
        parts.hooks.bracket(RESTORE).open()


def test_a_hook_that_asks_for_another_try_gets_it_within_its_time(tmp_path: Path):
    body = """
        count = os.path.exists("tries") and int(open("tries").read()) or 0
        open("tries", "w").write(str(count + 1))
        if count < 2: answer(outcome="retry", retry_after=0.01, reason="not yet")
    """
    script(tmp_path / "h", body)
    parts = Parts(tmp_path, "./h?timeout=60")
    assert parts.hooks.call(parts["h"], COMMITTED, None).result.outcome is Outcome.OK
    assert (tmp_path / "tries").read_text() == "3"


def test_a_hook_whose_time_does_not_last_for_another_try_has_failed(tmp_path: Path):
    script(tmp_path / "h", 'answer(outcome="retry", retry_after=3600, reason="locked")')
    parts = Parts(tmp_path, "./h")
    result = parts.hooks.call(parts["h"], COMMITTED, None).result
    assert (result.outcome, result.reason) == (Outcome.FAILED, "locked, and its time is over")


def test_a_retry_before_a_checkpoint_skips_it(tmp_path: Path):
    script(tmp_path / "h", "exit 75", python=False)
    with pytest.raises(HookError) as error:
        Parts(tmp_path, "./h").hooks.bracket(BEFORE).open()
    assert error.value.skipped


def test_a_hook_that_vetoes_for_ever_is_named_after_ten_minutes_and_then_every_hour(tmp_path: Path):
    script(tmp_path / "h", """echo '{"outcome": "veto", "reason": "never"}'""", python=False)
    parts = Parts(tmp_path, "./h?phases=pre-checkpoint")
    told = []
    for now in (
        0,
        VETO_SECONDS - 1,
        VETO_SECONDS,
        VETO_SECONDS + VETO_AGAIN_SECONDS - 1,
        VETO_SECONDS + VETO_AGAIN_SECONDS,
    ):
        parts.now = now
        with pytest.raises(HookError):
            parts.hooks.bracket(BEFORE).open()
        told.append(len(parts.told))
    assert told == [0, 0, 1, 1, 2]
    assert (
        parts.told[0]
        == "hook h has let no checkpoint be taken for 10 minutes (never); the job runs on unsaved"
    )


def test_a_hook_that_lets_one_through_begins_anew_to_count(tmp_path: Path):
    script(tmp_path / "h", "[ -e through ] || exit 75", python=False)
    parts = Parts(tmp_path, "./h?phases=pre-checkpoint")
    for now, through in ((0, False), (500, True), (700, False), (1000, False)):
        parts.now = now
        (tmp_path / "through").touch() if through else (tmp_path / "through").unlink(missing_ok=True)
        try:
            parts.hooks.bracket(BEFORE).open()
        except HookError:
            assert not through
    assert parts.told == []


def test_every_call_is_an_event_and_a_hooks_own_events_are_too(tmp_path: Path):
    body = """
        print("one\\ntwo", file=sys.stderr)
        answer(outcome="failed", reason="no", events=[{"event": "undone", "rows": 3, "hook": "x"}])
    """
    script(tmp_path / "h", body)
    parts = Parts(tmp_path, "./h")
    parts.hooks.call(parts["h"], COMMITTED, None)
    own, call = parts.events
    assert own == {
        "event": "hook-event",
        "hook": "h",
        "phase": "post-commit",
        "name": "undone",
        "fields": {"rows": 3, "hook": "x"},
    }
    assert call.pop("seconds") > 0
    assert call == {
        "event": "hook",
        "hook": "h",
        "phase": "post-commit",
        "checkpoint": "abc-0001",
        "outcome": "failed",
        "reason": "no",
        "stderr": ["one", "two"],
    }


def test_what_is_queued_runs_in_order_and_after_open_brackets(tmp_path: Path):
    script(tmp_path / "h", "", python=False)
    parts = Parts(tmp_path, "./h")
    bracket = parts.hooks.bracket(BEFORE)
    bracket.open()
    parts.hooks.later(COMMITTED)
    parts.hooks.later(Occasion(Phase.ON_FAILURE, 1))
    parts.hooks.later(Occasion(Phase.ON_EXIT, 1))
    bracket.close(AFTER)
    parts.hooks.settle()
    phases = [phase for _, phase, _ in parts.calls()]
    assert phases.index("post-checkpoint") < phases.index("on-failure")
    assert phases.index("post-commit") < phases.index("on-failure") < phases.index("on-exit")


def test_a_dump_that_is_given_up_begins_no_more_hooks(tmp_path: Path):
    for name in "ab":
        script(tmp_path / name, f"touch {tmp_path}/given-up", python=False)
    parts = Parts(tmp_path, "./a", "./b")
    bracket = parts.hooks.bracket(BEFORE)
    bracket.open((tmp_path / "given-up").exists)
    bracket.close(AFTER)
    assert [hook for hook, _, _ in parts.calls()] == ["a", "a"]


def test_without_hooks_there_is_no_thread_and_no_process(tmp_path: Path):
    parts = Parts(tmp_path)
    before = threading.active_count()
    bracket = parts.hooks.bracket(BEFORE)
    bracket.open()
    assert bracket.close(AFTER) == ""
    parts.hooks.later(COMMITTED)
    parts.hooks.settle()
    assert threading.active_count() == before
    assert parts.events == []


def test_commits_that_hooks_are_too_slow_for_are_left_out_by_name(tmp_path: Path):
    script(tmp_path / "h", "while [ ! -e go ]; do sleep 0.01; done", python=False)
    parts = Parts(tmp_path, "./h?phases=post-commit")
    names = [f"abc-{number:04d}" for number in range(1, 8)]
    for name in names:
        parts.hooks.later(Occasion(Phase.POST_COMMIT, 1, Checkpoint(name, "interval", 1.0)))
        deadline = time.monotonic() + PATIENCE
        while name == names[0] and parts.hooks._waiting:  # the first one runs, the others wait
            assert time.monotonic() < deadline
            time.sleep(0.01)
    (tmp_path / "go").touch()
    parts.hooks.settle()
    assert [event["checkpoint"] for event in parts.events if event["event"] == "hook"] == [
        names[0],
        *names[3:],
    ]
    left_out = [event["checkpoint"] for event in parts.events if event["event"] == "hooks-left-out"]
    assert left_out == names[1:3]
    assert len(parts.told) == 2


def test_a_machine_without_descriptors_costs_a_hook_and_nothing_else(tmp_path: Path):
    script(tmp_path / "h", "", python=False)
    parts = Parts(tmp_path, "./h")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(list(Path("/proc/self/fd").iterdir()))
    try:
        for spare in range(8):  # whichever descriptor it is that cannot be had
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + spare, hard))
            result = parts.hooks.call(parts["h"], COMMITTED, None).result
            assert result.outcome in {Outcome.OK, Outcome.FAILED}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert parts.hooks.call(parts["h"], COMMITTED, None).result.outcome is Outcome.OK
    assert len(list(Path("/proc/self/fd").iterdir())) == used


def test_what_follows_a_commit_waits_until_what_a_dump_has_begun_is_closed(tmp_path: Path):
    """A hook may keep others out of a server over a dump, and its own post-commit with them."""
    script(tmp_path / "h", "", python=False)
    parts = Parts(tmp_path, "./h?phases=pre-checkpoint,post-checkpoint,post-commit")
    bracket = parts.hooks.bracket(BEFORE)
    bracket.open()
    parts.hooks.later(COMMITTED)
    parts.hooks.call(parts["h"], BEFORE, None)  # time enough for what does not wait
    bracket.close(AFTER)
    parts.hooks.settle()
    phases = [phase for _, phase, _ in parts.calls()]
    assert phases == ["pre-checkpoint", "pre-checkpoint", "post-checkpoint", "post-commit"]


def test_a_dump_that_begins_between_two_hooks_of_a_commit_has_its_own_first(tmp_path: Path):
    at, go = tmp_path / "at", tmp_path / "go"
    wait = f"if given['phase'] == 'post-commit': open({str(at)!r}, 'w').close(); open({str(go)!r}).read()"
    os.mkfifo(go)
    script(tmp_path / "a", wait)
    script(tmp_path / "b", "", python=False)
    parts = Parts(tmp_path, "./a", "./b")
    parts.hooks.later(COMMITTED)
    wait_until(at.exists)
    bracket = parts.hooks.bracket(BEFORE)
    opening = threading.Thread(target=bracket.open)
    opening.start()
    wait_until(lambda: bracket.is_open)
    go.write_text("")
    opening.join()
    bracket.close(AFTER)
    parts.hooks.settle()
    assert parts.calls()[-1] == ("b", "post-commit", OK)


def test_a_restore_waits_for_an_opening_hook_that_takes_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(phases_module, "UNWIND_SECONDS", 0.0)
    at, go = tmp_path / "at", tmp_path / "go"
    os.mkfifo(go)
    script(tmp_path / "slow", f"open({str(at)!r}, 'w').close(); open({str(go)!r}).read()")
    parts = Parts(tmp_path, "./slow?phases=pre-checkpoint")
    bracket = parts.hooks.bracket(BEFORE)
    opening = threading.Thread(target=bracket.open)
    opening.start()
    wait_until(at.exists)
    settled = threading.Event()
    settling = threading.Thread(target=lambda: (parts.hooks.settle(), settled.set()))
    settling.start()
    early = settled.wait(0.2)
    go.write_text("")
    opening.join()
    bracket.close(AFTER)
    settling.join()
    assert not early


def test_a_call_that_cannot_even_be_made_leaves_the_rest_to_run(tmp_path: Path):
    script(tmp_path / "h", "", python=False)
    parts = Parts(tmp_path, "./h")
    parts.hooks.hooks = (replace(parts["h"], name="odd", options={"when": object()}), *parts.hooks.hooks)
    parts.hooks.later(COMMITTED)
    settling = threading.Thread(target=parts.hooks.settle, daemon=True)
    settling.start()
    settling.join(PATIENCE)
    assert not settling.is_alive()
    assert [(hook, outcome) for hook, _, outcome in parts.calls()] == [("odd", FAILED), ("h", OK)]
