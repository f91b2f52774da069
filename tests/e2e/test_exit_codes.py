"""What ckptrun exits with when the job ends by itself: the job's own code, whatever it is."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.run import RESTORED

if TYPE_CHECKING:
    from support.run import Lab


@pytest.mark.parametrize("code", [0, 3, 75, 255])
def test_the_jobs_exit_code_is_passed_through(lab: Lab, code: int):
    assert lab.run("sh", "-c", f"exit {code}").code == code


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGSEGV, signal.SIGKILL])
def test_a_job_ended_by_a_signal_for_good_gives_128_plus_its_number(lab: Lab, signum: int):
    assert lab.run("sh", "-c", f"kill -{int(signum)} $$").code == 128 + signum


def test_a_job_that_fails_before_its_first_checkpoint_is_not_restarted(lab: Lab):
    result = lab.run("sh", "-c", "echo once; exit 3")
    assert result.code == 3
    assert result.out == "once\n"
    assert "it is not restarted" in result.err


def test_a_successful_run_says_nothing(lab: Lab):
    assert lab.run("echo", "hello").err == ""


def test_a_command_that_does_not_exist_is_127_with_its_name(lab: Lab):
    result = lab.run("no-such-command-here")
    assert result.code == 127
    assert "no-such-command-here" in result.err


def test_a_path_that_does_not_exist_is_127_with_its_name(lab: Lab):
    result = lab.run("./missing.sh")
    assert result.code == 127
    assert "./missing.sh" in result.err


def test_a_file_that_is_not_executable_is_126_with_the_remedy(lab: Lab):
    (lab.work / "script.sh").write_text("echo hello\n")
    result = lab.run("./script.sh")
    assert result.code == 126
    assert "script.sh is not executable" in result.err
    assert "chmod" in result.err


def test_a_folder_is_no_command(lab: Lab):
    (lab.work / "folder").mkdir()
    assert lab.run("./folder").code == 126


def test_a_script_whose_interpreter_does_not_exist_is_said_to_be_so(lab: Lab):
    script = lab.work / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    result = lab.run("./script")
    assert result.code in {126, 127}
    assert "script" in result.err


def test_a_job_that_fails_after_a_checkpoint_again_and_again_ends_with_its_own_code(lab: Lab):
    job = Path(__file__).parent / "jobs" / "count.py"
    options = ("--interval", "0.3s", "--max-restarts", "2")
    lab.hold()
    run = lab.start(sys.executable, job, "--steps", 200, "--fail-at", 50, options=options)
    run.commit()
    assert run.finish().code == 3
    assert lab.events(RESTORED)
    assert lab.ask("ls", "--json").json[0]["exit"] == {"by": "job", "code": 3}


def test_the_end_is_recorded_with_whose_code_it_was(lab: Lab):
    lab.run("sh", "-c", "exit 0")
    (row,) = lab.ask("ls", "--json").json
    assert (row["name"], row["state"], row["exit"]) == (lab.name, "finished", {"by": "job", "code": 0})


def test_the_same_command_is_found_without_run_and_without_dashes(lab: Lab):
    store = ["--name", lab.name, "--store", lab.store]
    for words in (["--", "echo", "hello"], ["echo", "hello"]):
        found = subprocess.run(
            lab.argv(*store, *words), cwd=lab.work, env=lab.env, capture_output=True, text=True, check=False
        )
        assert (found.returncode, found.stdout) == (0, "hello\n"), found.stderr


def test_the_job_gets_the_directory_and_the_environment_but_nothing_of_ckptruns(lab: Lab):
    lab.environment = {"CKPTRUN_PASSPHRASE": "very secret", "MINE": "here"}
    result = lab.run("sh", "-c", "pwd; env")
    assert result.code == 0, result.err
    assert result.out.startswith(f"{lab.work}\n")
    assert "MINE=here" in result.out
    assert "very secret" not in result.out
    assert "CKPTRUN" not in result.out


def test_the_job_gets_no_descriptors_but_its_streams(lab: Lab):
    result = lab.run(
        sys.executable, "-c", "import os; print(sorted(map(int, os.listdir('/proc/self/fd')))[:-1])"
    )
    assert result.out.strip() == "[0, 1, 2]", result.err
