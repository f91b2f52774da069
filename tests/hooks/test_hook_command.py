"""The ready-made hook `command`: the user's shell line, as it is."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from typing import TYPE_CHECKING

import pytest
from support.hook_programs import HOOKS, call, context, start
from support.processes import PATIENCE, POLL_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

PHASES = json.loads((HOOKS / "command" / "hook.json").read_text())["phases"]


@pytest.mark.parametrize("phase", PHASES)
def test_runs_the_line_of_the_phase_and_no_other(phase: str, tmp_path: Path):
    options = {one: f"echo {one} >>{tmp_path}/said" for one in PHASES}
    assert call("command", phase, options=options).code == 0
    assert (tmp_path / "said").read_text() == f"{phase}\n"


def test_a_phase_without_a_line_is_ok():
    answer = call("command", "on-exit", options={"pre-checkpoint": "false"})
    assert (answer.code, answer.out, answer.err) == (0, "", "")


def test_the_context_is_a_file_and_never_part_of_the_line(tmp_path: Path):
    line = f'cat "$CKPTRUN_CONTEXT" >{tmp_path}/context; printf %s "$CKPTRUN_PHASE" >{tmp_path}/phase'
    lineage = "$(touch broken); `touch broken`"
    assert call("command", "post-commit", lineage=lineage, options={"post-commit": line}).code == 0
    given = context("post-commit", lineage=lineage, options={"post-commit": line})
    assert json.loads((tmp_path / "context").read_text()) == given
    assert (tmp_path / "phase").read_text() == "post-commit"


def test_the_context_is_there_for_programs_that_close_what_they_inherit(tmp_path: Path):
    line = f"""python3 -c 'import os, subprocess
os.closerange(3, 100)
subprocess.run(["sh", "-c", "cat $CKPTRUN_CONTEXT >{tmp_path}/context"], check=True)'"""
    assert call("command", "on-exit", options={"on-exit": line}).code == 0
    assert json.loads((tmp_path / "context").read_text())["phase"] == "on-exit"


def test_what_a_line_prints_is_no_result():
    answer = call(
        "command", "pre-checkpoint", options={"pre-checkpoint": 'echo ok; echo \'{"outcome":"veto"}\''}
    )
    assert answer.result == {}
    assert "ok" in answer.err


def test_a_line_may_leave_a_result_in_the_file_that_is_named_for_it():
    line = """echo '{"outcome": "veto", "reason": "deploying"}' >"$CKPTRUN_RESULT" """
    answer = call("command", "pre-checkpoint", options={"pre-checkpoint": line})
    assert answer.result == {"outcome": "veto", "reason": "deploying"}


@pytest.mark.parametrize(
    ("line", "code"), [("exit 3", 3), ("exit 75", 75), ("kill -9 $$", 137), ("no-such-program", 127)]
)
def test_the_exit_code_is_the_lines_own(line: str, code: int):
    assert call("command", "pre-checkpoint", options={"pre-checkpoint": line}).code == code


def test_the_last_word_of_a_failed_line_is_the_reason():
    answer = call(
        "command", "pre-restore", options={"pre-restore": "echo starting; echo disk is full >&2; exit 1"}
    )
    assert answer.reason == "disk is full"


def test_a_dry_run_runs_nothing(tmp_path: Path):
    answer = call("command", "pre-restore", options={"pre-restore": f"touch {tmp_path}/x"}, dry_run=True)
    assert answer.result["reason"] == f"would run: touch {tmp_path}/x"
    assert not (tmp_path / "x").exists()


def test_a_line_is_in_the_hooks_process_group_and_is_killed_with_it(tmp_path: Path):
    line = f"echo $$ >{tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; sleep 600"
    process = start("command", context("on-exit", options={"on-exit": line}))
    deadline = time.monotonic() + PATIENCE
    while not (tmp_path / "pid").exists():
        assert time.monotonic() < deadline
        time.sleep(POLL_SECONDS)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=PATIENCE)  # ends when nobody holds its pipes: the line's own sleep neither


def test_the_line_dies_with_the_hook(tmp_path: Path):
    """As the hook does with ckptrun: the next run's line must not meet that of the last one."""
    pid = tmp_path / "pid"
    line = f"echo $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 1000"
    process = start("command", context("pre-restore", options={"pre-restore": line}))
    deadline = time.monotonic() + PATIENCE
    while not pid.exists():
        assert time.monotonic() < deadline
        time.sleep(POLL_SECONDS)
    end = os.pidfd_open(int(pid.read_text()))
    process.kill()
    process.wait()
    try:
        assert select.select([end], [], [], PATIENCE)[0]
    finally:
        for pipe in (process.stdout, process.stderr):
            pipe.close()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(end, signal.SIGKILL)
        os.close(end)


def message(key: str) -> dict[str, object]:
    return {"id": f"ckptrun-{key}", "key": key, "payload": {"to": key}, "queued": 1.5}


def test_messages_are_lines_of_a_file_and_the_result_says_which_were_taken(tmp_path: Path):
    taking = 'import json; print(json.dumps({"released": [json.loads(input())["key"]]}))'
    line = f"""cat "$CKPTRUN_MESSAGES" >{tmp_path}/lines
    head -n 1 "$CKPTRUN_MESSAGES" | python3 -c '{taking}' >"$CKPTRUN_RESULT" """
    messages = [message("a"), message("b")]
    answer = call("command", "post-commit", options={"post-commit": line}, messages=messages)
    assert answer.result == {"released": ["a"]}
    assert [json.loads(one) for one in (tmp_path / "lines").read_text().splitlines()] == messages


def test_a_call_without_messages_names_no_file_of_them(tmp_path: Path):
    line = f"echo ${{CKPTRUN_MESSAGES-none}} >{tmp_path}/file"
    assert call("command", "post-commit", options={"post-commit": line}).code == 0
    assert (tmp_path / "file").read_text() == "none\n"
