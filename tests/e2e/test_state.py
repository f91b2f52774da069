"""The job's state through kills, a lost machine and the end of a run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.run import Lab, Run

pytestmark = pytest.mark.slow

JOB = (sys.executable, Path(__file__).parent / "jobs" / "state_job.py")


def kept(output: str) -> str:
    (line,) = (line for line in output.splitlines() if line.startswith("kept "))
    return line


def holds_again(run: Run, word: str) -> None:
    assert run.stdout is not None
    output, text = run.stdout, word.encode()
    before = output.data.count(text)
    run.restored(run.kill_job)
    run.until(word, lambda: output.data.count(text) > before)


@pytest.mark.usefixtures("held")
def test_a_state_goes_back_with_the_memory_here_and_elsewhere_and_outlives_the_run(lab: Lab, tmp_path: Path):
    alone = subprocess.run(
        [*JOB, "keeping"], capture_output=True, check=True, cwd=tmp_path, text=True
    )  # the dictionary of a process: what there must be in the end
    run = lab.start(*JOB, "keeping")
    run.prints("holding 13")
    holds_again(run, "holding 13")
    run.kill_supervisor()
    (lab.work / "pass-13").touch()
    run = lab.start(*JOB, "keeping")
    run.prints("holding 25")
    (lab.work / "pass-25").touch()
    run.kill_supervisor()
    lab.lose_machine()
    result = lab.start(*JOB, "keeping").finish()
    assert result.code == 0, result.err
    assert kept(result.out) == kept(alone.stdout)

    lab.lose_machine()
    result = lab.run(*JOB, "reading", options=("--fresh",))
    assert result.code == 0, result.err
    assert kept(result.out) == kept(alone.stdout)
    verified = lab.ask("verify")
    assert verified.code == 0, verified.out


@pytest.mark.usefixtures("held")
def test_a_state_is_never_ahead_of_the_memory_whenever_a_checkpoint_falls(lab: Lab):
    run = lab.start(*JOB, "counting", options=("--interval", "0.4s"))
    for _ in range(3):
        run.commit()
        run.restored(run.kill_job)
    result = run.finish()
    assert result.code == 0, result.err + result.out


def test_a_run_finds_what_a_failed_one_put_after_its_last_checkpoint(lab: Lab):
    found = []
    for value, code in (("first", 3), ("second", 0)):
        result = lab.run(*JOB, "ending", value, code, options=("--fresh", "--restart", "never"))
        assert result.code == code, result.err
        found.append(result.out.strip())
        lab.lose_machine()
    assert found == ["found None", "found b'first'"]


def test_a_state_that_cannot_be_stored_waits_here_for_the_next_run(lab: Lab):
    lab.hold()
    run = lab.start(*JOB, "waiting")
    run.prints("put")
    store = Path(lab.store.removeprefix("file://"))
    store.chmod(0)
    aside = store.rename(store.with_name("aside"))
    store.touch()  # nothing can be made in its place
    result = run.finish()
    assert "the job's state could not be stored" in result.err
    assert "the next run on this machine goes on with it" in result.err
    store.unlink()
    aside.rename(store).chmod(0o700)
    result = lab.run(*JOB, "reading", options=("--fresh",))
    assert result.code == 0, result.err
    assert kept(result.out).endswith(" 1")
