"""The same command again: DESIGN's table, row by row, with real processes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from jobs import count
from support.run import RESTORED, STARTED, Lab

if TYPE_CHECKING:
    from support.run import Result

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("held")]

JOBS = Path(__file__).parent / "jobs"
COUNT = (sys.executable, JOBS / "count.py", "--steps", 120)
OFTEN = ("--interval", "0.4s")


def is_exact(lab: Lab, result: Result) -> bool:
    log = (lab.work / "log.txt").read_text().splitlines()
    return (result.code, result.out, log) == (0, f"{count.result(120)}\n", count.lines(120))


def starts(lab: Lab) -> list[str]:
    return [event["event"] for event in lab.events() if event["event"] in {STARTED, RESTORED}]


def test_after_exit_0_it_starts_fresh(lab: Lab):
    command = ("sh", "-c", "echo start; sleep 0.5")
    for _ in range(2):
        assert lab.run(*command, options=("--interval", "0.1s")).out == "start\n"
    assert starts(lab) == [STARTED, STARTED]


def test_after_the_death_of_ckptrun_it_resumes(lab: Lab):
    run = lab.start(*COUNT, options=OFTEN)
    run.commit(2)
    run.kill_supervisor()
    result = lab.run(*COUNT, options=OFTEN)
    assert is_exact(lab, result), result.err
    assert starts(lab) == [STARTED, RESTORED]
    assert "interrupted" in result.err


def test_after_the_loss_of_the_machine_it_resumes_from_the_store_alone(lab: Lab):
    run = lab.start(*COUNT, options=OFTEN)
    run.commit(2)
    run.kill_supervisor()
    lab.lose_machine()
    (lab.work / "log.txt").unlink()
    result = lab.run(*COUNT, options=OFTEN)
    assert is_exact(lab, result), result.err
    assert starts(lab) == [RESTORED]


def test_interrupted_before_its_first_checkpoint_it_starts_fresh_and_says_so(lab: Lab):
    run = lab.start(*COUNT)
    run.job_pid()
    run.kill_supervisor()
    result = lab.run(*COUNT)
    assert is_exact(lab, result), result.err
    assert "no checkpoint" in result.err


def test_fresh_starts_anew_whatever_there_is(lab: Lab):
    run = lab.start(*COUNT, options=OFTEN)
    run.commit()
    run.kill_supervisor()
    result = lab.run(*COUNT, options=("--fresh",))
    assert is_exact(lab, result), result.err
    assert starts(lab) == [STARTED, STARTED]


def test_a_fresh_start_that_is_killed_before_its_first_checkpoint_leaves_the_old_ones_alone(lab: Lab):
    command = ("sh", "-c", "echo start; while test -e hold; do sleep 0.01; done")
    run = lab.start(*command)
    run.prints("start")
    run.checkpoint()
    assert run.finish().code == 0
    lab.hold()
    before = len(lab.events())
    run = lab.start(*command)
    run.event(STARTED, after=before)  # the job may speak before its start is recorded
    run.kill_supervisor()
    result = lab.run(*command)
    assert (result.code, result.out) == (0, "start\n"), result.err
    assert starts(lab) == [STARTED] * 3


def test_killed_after_it_went_back_it_goes_on_from_there_and_not_from_what_is_newer(lab: Lab):
    run = lab.start(*COUNT)
    run.until("log", (lab.work / "log.txt").exists)
    chosen = run.checkpoint()
    newer = run.checkpoint()
    run.kill_supervisor()
    back = lab.restore("--at", chosen)
    back.event(RESTORED)
    back.kill_supervisor()
    shown = {checkpoint["id"]: checkpoint["set_aside"] for checkpoint in lab.checkpoints()}
    assert shown == {chosen: False, newer: True}
    assert "set aside" in lab.ask("show").out
    result = lab.run(*COUNT)
    assert is_exact(lab, result), result.err
    assert [event["checkpoint"] for event in lab.events(RESTORED)] == [chosen, chosen]
    assert f"checkpoint {newer} was set aside" in result.err


def failed(lab: Lab) -> tuple[object, ...]:
    """Have the lineage's last run give up, and return its command."""
    command = (*COUNT, "--fail-at", 60)
    run = lab.start(*command, options=("--max-restarts", "1"))
    run.checkpoint()
    result = run.finish()
    assert result.code == 3, result.err
    assert lab.events(RESTORED)
    assert lab.ask("ls", "--json").json[0]["state"] == "failed"
    return command


def test_after_a_failure_it_is_refused_naming_both_ways_out(lab: Lab):
    command = failed(lab)
    refused = lab.run(*command)
    assert refused.code == 78
    assert "--resume" in refused.err
    assert "--fresh" in refused.err
    assert refused.out == ""


def test_after_a_failure_resume_goes_on_from_the_newest_checkpoint(lab: Lab):
    command = failed(lab)
    result = lab.run(*command, options=("--resume", "--max-restarts", "0"))
    assert result.code == 3
    assert starts(lab)[-1] == RESTORED


def test_after_a_failure_fresh_starts_anew(lab: Lab):
    command = failed(lab)
    run = lab.start(*command, options=("--fresh", "--max-restarts", "0"))
    assert run.wait().code == 3
    assert starts(lab)[-1] == STARTED


def interrupted_with_a_script(lab: Lab) -> tuple[object, ...]:
    script = lab.work / "train.py"
    script.write_bytes((JOBS / "count.py").read_bytes())
    command = (sys.executable, "train.py", "--steps", 120)
    run = lab.start(*command, options=OFTEN)
    run.commit()
    run.kill_supervisor()
    with script.open("a") as file:
        file.write("# changed\n")
    return command


def test_after_a_change_of_the_script_it_is_refused_naming_the_file(lab: Lab):
    refused = lab.run(*interrupted_with_a_script(lab))
    assert refused.code == 78
    for word in ("train.py", "--resume", "--fresh"):
        assert word in refused.err


def test_after_a_change_of_the_script_resume_goes_on(lab: Lab):
    result = lab.run(*interrupted_with_a_script(lab), options=("--resume",))
    assert is_exact(lab, result), result.err
    assert starts(lab)[-1] == RESTORED


def test_another_command_under_the_name_is_refused_naming_the_ways_out(lab: Lab):
    run = lab.start(*COUNT, options=OFTEN)
    run.commit()
    run.kill_supervisor()
    refused = lab.run("echo", "something else")
    assert refused.code == 78
    assert "--fresh" in refused.err
    assert "--name" in refused.err
    assert lab.run("echo", "something else", options=("--fresh",)).out == "something else\n"


def test_while_it_runs_here_a_second_one_is_refused(lab: Lab):
    command = (sys.executable, JOBS / "count.py", "--steps", 100000)
    run = lab.start(*command)
    run.job_pid()
    refused = lab.run(*command)
    assert refused.code == 79, refused.err
    assert lab.name in refused.err
    assert refused.out == ""
    assert run.alive()


def test_a_live_writer_with_another_state_directory_is_noticed_through_the_store(lab: Lab, tmp_path: Path):
    run = lab.start(sys.executable, JOBS / "count.py", "--steps", 100000)
    run.job_pid()
    with Lab(tmp_path / "elsewhere", store=lab.store) as elsewhere:
        refused = elsewhere.run(sys.executable, JOBS / "count.py", "--steps", 100000)
    assert refused.code == 79, refused.err
    assert lab.name in refused.err
    assert run.alive()


def test_a_dead_writer_of_another_machine_is_taken_over_after_its_lease(lab: Lab, tmp_path: Path):
    boot = tmp_path / "boot_id"
    boot.write_text("00000000-1111-2222-3333-444444444444\n")
    where = "/proc/sys/kernel/random/boot_id"
    prefix = ("unshare", "-m", "sh", "-c", f'mount --bind {boot} {where} && exec "$@"', "sh")
    with Lab(tmp_path / "elsewhere", store=lab.store, prefix=prefix) as elsewhere:
        elsewhere.work = lab.work
        run = elsewhere.start(*COUNT, options=OFTEN)
        run.commit(2)
        run.kill_supervisor()
    result = lab.run(*COUNT, options=OFTEN)
    assert is_exact(lab, result), result.err
    assert starts(lab) == [RESTORED]


def test_restore_at_goes_back_to_the_checkpoint_of_choice(lab: Lab):
    run = lab.start(*COUNT)
    run.until("log", (lab.work / "log.txt").exists)
    chosen = run.checkpoint()
    run.checkpoint()
    run.kill_supervisor()
    lab.release()
    asked = lab.ask("restore", "--at", chosen)
    assert asked.code == 0, asked.err
    assert lab.events(RESTORED)[-1]["checkpoint"] == chosen
    assert (lab.work / "log.txt").read_text().splitlines() == count.lines(120)


def test_nothing_lives_on_when_ckptrun_is_killed_while_it_dumps(lab: Lab):
    run = lab.start(sys.executable, JOBS / "count.py", "--steps", 5000, options=("--interval", "0.1s"))
    run.commit(1)
    run.until("dump", run.dumping)
    run.kill_supervisor()
