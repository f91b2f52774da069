"""A user at a terminal: what is typed reaches the job, what it shows appears, and job control works."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from support.processes import PATIENCE, POLL_SECONDS
from support.run import COMMITTED, RESTORED, STAGED
from support.terminal import CTRL_C, CTRL_D, CTRL_Z, Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.run import Lab

pytestmark = pytest.mark.slow

BAR = (sys.executable, Path(__file__).parent / "jobs" / "bar.py")


@pytest.fixture
def terminal(lab: Lab) -> Iterator[Terminal]:
    terminal = Terminal(lab)
    terminal.shows("$ ")
    yield terminal
    terminal.close()


def run(terminal: Terminal, *command: object, options: tuple[str, ...] = ()) -> None:
    terminal.line(shlex.join(terminal.lab.run_argv(*command, options=options)))


def job(lab: Lab) -> psutil.Process:
    asked = lab.ask("status", "--json")
    assert asked.code == 0, asked.err
    return psutil.Process(asked.json["job_pid"])


def wait_until(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {PATIENCE:g} s"
        time.sleep(POLL_SECONDS)


def wait_for_commits(lab: Lab, count: int) -> None:
    known = {event["id"] for event in lab.events(STAGED)}
    wait_until("commits", lambda: len({event["id"] for event in lab.events(COMMITTED)} - known) >= count)


def test_the_job_has_a_terminal_of_the_windows_size(terminal: Terminal):
    run(terminal, *BAR, 3, 0.01)
    terminal.shows("terminals [True, True, True]")
    terminal.shows("size 80x24")
    terminal.shows("full")
    terminal.shows("$ ")


def test_lines_end_in_column_one(terminal: Terminal):
    run(terminal, "printf", r"one\ntwo\n")
    assert "one\r\ntwo\r\n" in terminal.shows("$ ")


def test_a_new_window_size_passes(terminal: Terminal):
    run(terminal, *BAR, 1000, 0.02)
    terminal.shows("step 3")
    terminal.resize(40, 132)
    terminal.shows("resized to 132x40")


def test_ctrl_c_goes_to_the_job_and_it_is_not_restored(terminal: Terminal):
    run(terminal, *BAR, 2000, 0.02, options=("--interval", "0.4s"))
    terminal.shows("step 60")
    wait_for_commits(terminal.lab, 1)
    terminal.type(CTRL_C)
    terminal.shows("interrupted by the user")
    terminal.shows("$ ")
    terminal.line("echo code $?")
    terminal.shows("code 130\r\n")
    assert terminal.lab.events(COMMITTED)
    assert not terminal.lab.events(RESTORED)


def test_ctrl_c_that_kills_the_job_is_not_restored_either(terminal: Terminal):
    run(terminal, "sh", "-c", "echo begun; sleep 100", options=("--interval", "0.3s"))
    terminal.shows("begun\r\n")
    wait_for_commits(terminal.lab, 1)
    terminal.type(CTRL_C)
    terminal.shows("$ ")
    terminal.line("echo code $?")
    terminal.shows("code 130\r\n")
    assert not terminal.lab.events(RESTORED)


def test_ctrl_z_suspends_and_fg_goes_on(terminal: Terminal):
    run(terminal, *BAR, 300, 0.02)
    terminal.shows("step 20 ")
    stopped = job(terminal.lab)
    terminal.type(CTRL_Z)
    terminal.shows("Stopped")
    terminal.shows("$ ")
    terminal.line("echo still $((40 + 2))")
    terminal.shows("still 42")
    assert stopped.status() == psutil.STATUS_STOPPED
    terminal.line("fg")
    terminal.shows("step 300 of 300")
    terminal.shows("full")
    terminal.shows("$ ")
    terminal.line("echo code $?")
    terminal.shows("code 0\r\n")


def test_suspended_twice(terminal: Terminal):
    run(terminal, *BAR, 300, 0.02)
    for step in (20, 100):
        terminal.shows(f"step {step} ")
        terminal.type(CTRL_Z)
        terminal.shows("Stopped")
        terminal.line("fg")
    terminal.shows("full")


def test_a_job_killed_in_a_terminal_is_restored_and_its_bar_goes_on(terminal: Terminal):
    terminal.lab.hold()
    run(terminal, *BAR, 200, 0.02, options=("--interval", "0.4s"))
    terminal.shows("step 60 ")
    wait_for_commits(terminal.lab, 1)
    job(terminal.lab).kill()
    terminal.shows("runs again")
    terminal.lab.release()
    terminal.shows("step 200 of 200")
    terminal.shows("full")
    terminal.shows("$ ")
    terminal.line("echo code $?")
    terminal.shows("code 0\r\n")


def test_keys_work_after_a_restore(terminal: Terminal):
    run(terminal, *BAR, 3000, 0.02, options=("--interval", "0.4s"))
    terminal.shows("step 60 ")
    wait_for_commits(terminal.lab, 1)
    job(terminal.lab).kill()
    terminal.shows("runs again")
    terminal.shows("step ")
    terminal.resize(30, 100)
    terminal.shows("resized to 100x30")
    terminal.type(CTRL_C)
    terminal.shows("interrupted by the user")
    terminal.shows("$ ")
    terminal.line("echo code $?")
    terminal.shows("code 130\r\n")


def test_an_interactive_program_is_usable_and_its_state_survives_a_kill(terminal: Terminal):
    run(terminal, sys.executable, "-q", options=("--interval", "0.5s"))
    terminal.shows(">>> ")
    terminal.line("answer = 6 * 7")
    terminal.shows(">>> ")
    wait_for_commits(terminal.lab, 2)
    job(terminal.lab).kill()
    terminal.shows("runs again")
    terminal.line("print('the answer is', answer)")
    terminal.shows("the answer is 42")
    terminal.type(CTRL_D)
    terminal.shows("$ ")
    terminal.line("echo code $?")
    terminal.shows("code 0\r\n")


def modes(terminal: Terminal) -> bytes:
    return subprocess.run(["stty", "-F", terminal.path, "-a"], capture_output=True, check=True).stdout


@pytest.mark.parametrize("code", [0, 3])
def test_the_terminal_is_as_before_when_the_job_has_ended(terminal: Terminal, code: int):
    before = modes(terminal)
    run(terminal, "sh", "-c", f"stty raw -echo; echo done; exit {code}")
    terminal.shows("done")
    terminal.shows("$ ")
    assert modes(terminal) == before


def test_output_redirected_while_typing_stays_on_the_terminal(terminal: Terminal):
    command = shlex.join(terminal.lab.run_argv(sys.executable, "-c", "print(input('name? '))"))
    terminal.line(f"{command} > out.txt")
    terminal.line("Ada")
    terminal.shows("Ada")
    terminal.shows("$ ")
    terminal.line("cat out.txt")
    terminal.shows("Ada\r\n")
    assert (terminal.lab.work / "out.txt").read_text() == "name? Ada\n"


def test_in_the_background_it_leaves_the_keys_to_the_shell_and_fg_brings_it_back(terminal: Terminal):
    terminal.lab.hold()
    command = shlex.join(terminal.lab.run_argv(*BAR, 400, 0.02))
    terminal.line(f"{command} > out.txt &")
    terminal.shows("$ ")
    out = terminal.lab.work / "out.txt"
    wait_until("output", lambda: out.exists() and "step 20 " in out.read_text())
    for number in range(5):
        terminal.line(f"echo typed $(({number} + 40))")
        terminal.shows(f"typed {number + 40}\r\n")
    terminal.line("jobs")
    terminal.shows("Running")
    terminal.line("fg")
    terminal.shows("> out.txt\r\n")
    terminal.lab.release()
    wait_until("the end", lambda: "full" in out.read_text())
    terminal.shows("$ ")
    terminal.line("echo code $?")
    terminal.shows("code 0\r\n")


def test_brought_from_the_background_ctrl_c_reaches_the_job(terminal: Terminal):
    command = shlex.join(terminal.lab.run_argv(*BAR, 4000, 0.02))
    terminal.line(f"{command} &")
    terminal.shows("step 20 ")
    terminal.line("fg")
    terminal.shows("step 60 ")
    terminal.type(CTRL_C)
    terminal.shows("interrupted by the user")
    terminal.shows("$ ")


def test_a_suspended_run_can_be_stopped_with_a_checkpoint(terminal: Terminal):
    run(terminal, *BAR, 300, 0.02)
    terminal.shows("step 20 ")
    terminal.type(CTRL_Z)
    terminal.shows("Stopped")
    terminal.line("kill %1; fg")
    terminal.shows("run the same command")
    terminal.shows("$ ")
    run(terminal, *BAR, 300, 0.02)
    terminal.shows("full")


def test_a_suspended_job_that_resumes_in_the_background_goes_on(terminal: Terminal):
    command = shlex.join(terminal.lab.run_argv(*BAR, 200, 0.02))
    terminal.line(f"{command} > out.txt")
    out = terminal.lab.work / "out.txt"
    wait_until("output", lambda: out.exists() and "step 20 " in out.read_text())
    terminal.type(CTRL_Z)
    terminal.shows("Stopped")
    terminal.line("bg")
    wait_until("the end", lambda: "full" in out.read_text())
    terminal.line("wait")
    terminal.shows("$ ")


TTY = (sys.executable, Path(__file__).parent / "jobs" / "asking.py")


def asked_and_waiting(terminal: Terminal, *words: str) -> None:
    run(terminal, *TTY, *words)
    terminal.shows("name? ")
    terminal.line("somebody")
    terminal.shows("hello somebody")
    terminal.shows("waiting")


def asked_again(terminal: Terminal) -> None:
    (terminal.lab.work / "go").touch()
    terminal.shows("helper is done")
    terminal.shows("word? ")
    terminal.line("secret")
    terminal.shows("secret True 0 True")
    terminal.shows("$ ")


def test_a_program_that_holds_dev_tty_goes_on_asking_there(terminal: Terminal):
    asked_and_waiting(terminal)
    for _ in range(2):
        asked = terminal.lab.ask("checkpoint", "--wait")
        assert asked.code == 0, asked.err
        job(terminal.lab).kill()
        terminal.shows("runs again")
    asked_again(terminal)


@pytest.mark.parametrize(("how", "pid"), [("too", 1003), ("child", 1003), ("apart", 1001)])
def test_dev_tty_held_otherwise_is_refused_by_name_and_the_job_runs_on(
    terminal: Terminal, how: str, pid: int
):
    asked_and_waiting(terminal, how)
    asked = terminal.lab.ask("checkpoint", "--wait")
    assert asked.code != 0
    assert f"process {pid} (python" in asked.err
    assert "holds /dev/tty" in asked.err
    asked_again(terminal)
    assert terminal.lab.events(COMMITTED) == []
