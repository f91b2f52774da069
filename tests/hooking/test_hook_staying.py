"""A hook whose process stays: one process opens and closes a checkpoint, and one that is lost is no loss."""

from __future__ import annotations

import json
import os
import signal
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hookkit import AFTER, BEFORE, Parts

from ckptrun.errors import HookError
from ckptrun.hooking.contract import Occasion, Phase
from ckptrun.hooking.pipes import STDOUT_BYTES

if TYPE_CHECKING:
    from ckptrun.hooking.bracket import Bracket

LOOP = """
    import json, os, sys, time
    count = 0
    for line in sys.stdin:
        given, count = json.loads(line), count + 1
        name = given["phase"]
        answer = {"data": {name: [os.getpid(), count]}}
        %s
        print(json.dumps(answer), flush=True)
    open("ended", "w").close()
"""


def parts(folder: Path, body: str, *, loop: bool = True, **about: Any) -> Parts:
    """Return the parts of a run with one hook that stays."""
    place = folder / "mine"
    place.mkdir()
    program = textwrap.dedent(LOOP) % body if loop else textwrap.dedent(body)
    (place / "hook.py").write_text(program)
    phases = ["pre-checkpoint", "post-checkpoint", "pre-restore", "post-restore"]
    description = {"name": "mine", "description": "x", "phases": phases, "run": "hook.py", "stays": True}
    (place / "hook.json").write_text(json.dumps({**description, **about}))
    return Parts(folder, "./mine")


def opened(run: Parts) -> Bracket:
    bracket = run.hooks.bracket(BEFORE)
    bracket.open()
    return bracket


def test_one_process_opens_and_closes_and_ends_after_that(tmp_path: Path):
    bracket = opened(parts(tmp_path, "pass"))
    pid, _ = bracket.data["mine"]["pre-checkpoint"]
    assert bracket.close(AFTER) == ""
    assert bracket.data["mine"]["post-checkpoint"] == [pid, 2]
    assert (tmp_path / "ended").exists()
    assert not Path(f"/proc/{pid}").exists()


def test_a_restore_has_one_of_its_own(tmp_path: Path):
    run = parts(tmp_path, "pass")
    bracket = run.hooks.bracket(replace(BEFORE, phase=Phase.PRE_RESTORE))
    bracket.open()
    bracket.close(replace(AFTER, phase=Phase.POST_RESTORE))
    assert bracket.data["mine"]["pre-restore"] == [bracket.data["mine"]["post-restore"][0], 1]


def test_a_phase_that_belongs_to_no_bracket_is_a_process_of_its_own(tmp_path: Path):
    run = parts(tmp_path, "pass")
    (ran,) = run.hooks.run(Phase.POST_CHECKPOINT, AFTER, run.hooks.hooks, {})
    assert ran.result.data is not None
    assert ran.result.data["post-checkpoint"][1] == 1


@pytest.mark.parametrize("how", ["killed", "ended", "dies-when-asked"])
def test_one_that_is_lost_on_the_way_is_replaced_for_the_closing_phase(tmp_path: Path, how: str):
    """The other one starts anew: it counts from one."""
    leave = "name == 'pre-checkpoint' and (print(json.dumps(answer), flush=True), os._exit(0))"
    body = {"ended": leave, "dies-when-asked": "count == 2 and os._exit(3)"}.get(how, "pass")
    run = parts(tmp_path, body)
    bracket = opened(run)
    pid, _ = bracket.data["mine"]["pre-checkpoint"]
    if how == "killed":
        os.kill(pid, signal.SIGKILL)
    if how != "dies-when-asked":
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert bracket.close(AFTER) == ""
    other, count = bracket.data["mine"]["post-checkpoint"]
    assert (other != pid, count) == (True, 1)
    assert run.calls()[-1] == ("mine", "post-checkpoint", "ok")


def test_one_that_reads_to_the_end_of_its_input_never_answers_and_is_named(tmp_path: Path):
    run = parts(tmp_path, "import sys; sys.stdin.read()", loop=False, timeout=0.5)
    bracket = run.hooks.bracket(BEFORE)
    with pytest.raises(HookError, match="did not end within"):
        bracket.open()
    bracket.close(AFTER)  # that has a process, and so an input, of its own
    assert run.calls()[-1] == ("mine", "post-checkpoint", "ok")


@pytest.mark.slow
def test_one_that_hangs_when_it_is_to_close_is_ended_in_time_and_named(tmp_path: Path):
    run = parts(tmp_path, "count == 2 and time.sleep(3600)", timeout=6)
    bracket = opened(run)
    pid, _ = bracket.data["mine"]["pre-checkpoint"]
    bracket.close(AFTER)
    assert not Path(f"/proc/{pid}").exists()
    assert run.calls()[-1] == ("mine", "post-checkpoint", "failed")
    assert run.events[-1]["reason"] == "it did not end within 6 s and was killed"


def test_one_that_talks_nonsense_fails_its_phase_and_nothing_else(tmp_path: Path):
    run = parts(tmp_path, "count == 2 and print('hm', flush=True)")
    bracket = opened(run)
    bracket.close(AFTER)
    assert run.calls()[-1] == ("mine", "post-checkpoint", "failed")
    assert "no JSON: 'hm'" in run.events[-1]["reason"]


def test_one_that_floods_is_ended(tmp_path: Path):
    run = parts(tmp_path, f"count == 2 and print('x' * {2 * STDOUT_BYTES}, end='', flush=True)")
    bracket = opened(run)
    pid, _ = bracket.data["mine"]["pre-checkpoint"]
    bracket.close(AFTER)
    assert not Path(f"/proc/{pid}").exists()
    assert "more than 1 MiB" in run.events[-1]["reason"]


def test_one_that_says_no_is_still_asked_to_close(tmp_path: Path):
    run = parts(tmp_path, "answer['outcome'] = 'veto' if count == 1 else 'ok'")
    bracket = run.hooks.bracket(BEFORE)
    with pytest.raises(HookError):
        bracket.open()
    bracket.close(Occasion(Phase.POST_CHECKPOINT, outcome={"ok": False, "error": "no"}))
    (first, _), (second, _) = bracket.data["mine"]["pre-checkpoint"], bracket.data["mine"]["post-checkpoint"]
    assert first == second
