"""Undos and senders run in a process of their own: what they get, how they fail, and that nothing of them is left."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from ckptrun.effects import worker
from ckptrun.effects.model import Entry, Kind, State
from ckptrun.effects.worker import Surroundings, Workers

MODULE = """
import asyncio, os, subprocess, sys, time
from pathlib import Path

def note(*words, **named):
    with open("notes", "a") as file:
        print(*words, sorted(named.items()), file=file)

def plain(*args, **kwargs):
    note(*args, **kwargs)

def knowing(seat, key, result, row="a"):
    note(seat, key, result, row, os.environ.get("COLOUR"), os.getcwd())

async def slowly(seat):
    await asyncio.sleep(0)
    note("async", seat)

class Desk:
    @staticmethod
    def close(seat):
        note("desk", seat)

def fails():
    print("on the way")
    raise ValueError("no way back")

def hangs():
    child = subprocess.Popen(["sleep", "600"])
    note(os.getpid(), child.pid)
    time.sleep(600)

def dies():
    sys.stderr.write("about to die\\n")
    sys.stderr.flush()
    os._exit(3)

def answers():
    own = [int(fd) for fd in os.listdir("/proc/self/fd") if int(fd) > 2 and os.path.exists(f"/proc/self/fd/{fd}")]
    for fd in own:
        if os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
            os.write(fd, b"[1]")
    os._exit(0)

def leaves():
    note(subprocess.Popen(["sleep", "600"], start_new_session=True).pid)

def numbered(n):
    note(os.getpid(), n)

def numbered_too(n):
    note(os.getpid(), n)

def dies_of(n, deadly):
    note(os.getpid(), n)
    if n == deadly:
        os._exit(4)

def stumbles_over(n, bad):
    note(os.getpid(), n)
    if n == bad:
        sys.exit("enough")

def reads():
    note(repr(sys.stdin.read()))

def rights():
    for line in open("/proc/self/status"):
        if line.startswith(("Uid", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs")):
            note(*line.split())

def dies_later():
    import threading
    note(os.getpid())
    threading.Thread(target=lambda: (time.sleep(0.05), os._exit(0))).start()

def says_goodbye():
    import atexit
    atexit.register(note, "goodbye")

if __name__ == "__main__":
    note("main ran")
elif __name__ != "outside":
    note("loaded")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "outside.py").write_text(MODULE)
    return tmp_path


def effect(folder: Path, function: str, *args: Any, **more: Any) -> Entry:
    place = {"executable": sys.executable, "path": [str(folder)], "cwd": str(folder), "script": None}
    call = {"function": function, "args": list(args), "kwargs": {}, "place": {**place, **more}}
    return Entry(1, "k1", Kind.COMPENSABLE, 1, State.UNDOING, call=call, result={"value": "r1"})


def workers(seconds: float = 60.0) -> Workers:
    return Workers(Surroundings({"COLOUR": "blue", "PATH": os.environ["PATH"]}, "/"), seconds)


def run(folder: Path, function: str, *args: Any, seconds: float = 60.0, **more: Any) -> str:
    with workers(seconds) as some:
        return some.run(effect(folder, function, *args, **more))


def notes(folder: Path) -> list[str]:
    return (folder / "notes").read_text().splitlines()


def pids(folder: Path) -> list[int]:
    return [int(line.split()[0]) for line in notes(folder)]


def wait_for_the_end_of(*pids: int) -> None:
    deadline = time.monotonic() + 60
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has somebody else's job")
@pytest.mark.parametrize("uid", [0, 65534])
def test_for_a_restricted_job_nothing_can_gain_a_capability(uid: int):
    """Not even what is root's: its program is of the job's choice."""
    python = shutil.which("python3", path="/usr/bin:/bin")
    if python is None:
        pytest.skip("no Python that anybody may start")
    around = Surroundings({"PATH": os.environ["PATH"]}, "/", (uid, uid, ()), restricted=True)
    with tempfile.TemporaryDirectory(prefix="ckptrun-test-") as name, Workers(around) as confined:
        folder = Path(name)  # pytest's own are root's alone
        folder.chmod(0o777)
        (folder / "outside.py").write_text(MODULE)
        assert confined.run(effect(folder, "outside:rights", executable=python)) == ""
        told = dict(line.split(" ")[:2] for line in notes(folder) if ":" in line)
    assert (told["Uid:"], told["NoNewPrivs:"]) == (str(uid), "1")
    assert {told[f"Cap{name}:"] for name in ("Prm", "Eff", "Amb")} == {"0" * 16}
    assert uid or told["CapBnd:"] == "0" * 16


def test_it_gets_its_arguments_the_key_the_result_and_the_jobs_surroundings(folder: Path):
    assert run(folder, "outside:plain", 1, "x") == ""
    assert run(folder, "outside:knowing", 4) == ""
    assert notes(folder) == ["1 x []", f"4 k1 r1 a blue {folder} []"]


def test_it_may_be_async_or_inside_a_class(folder: Path):
    assert run(folder, "outside:slowly", 1) == ""
    assert run(folder, "outside:Desk.close", 2) == ""
    assert notes(folder) == ["async 1 []", "desk 2 []"]


def test_a_function_of_the_jobs_script_is_found_and_its_main_part_is_not_run(folder: Path):
    assert run(folder, "__main__:plain", 5, script=str(folder / "outside.py")) == ""
    assert notes(folder) == ["loaded []", "5 []"]


def test_why_it_failed_is_said(folder: Path):
    assert run(folder, "outside:fails") == "ValueError: no way back"
    assert "no_such" in run(folder, "outside:no_such")
    assert "nowhere" in run(folder, "nowhere:x")
    assert run(folder, "outside:dies") == "it ended with 3: about to die"
    assert "could not be started" in run(folder, "outside:plain", executable="/no/python")


def test_what_no_sdk_would_say_of_it_is_why_it_failed_too(folder: Path):
    """One that raised would end the thread by which all others are undone and sent."""
    assert "could not be started" in run(folder, "outside:plain", executable="/no\0python")
    assert "could not be started" in run(folder, "outside:plain", cwd="/no\0where")
    assert run(folder, "outside:answers") == "it ended with 0"
    entry = Entry(1, "k1", Kind.COMPENSABLE, 1, State.UNDOING, call={"function": "a:b", "place": "here"})
    assert workers().run(entry) == "nothing is known that could be run"


@pytest.mark.slow
def test_one_that_hangs_is_killed_with_all_it_started(folder: Path):
    assert run(folder, "outside:hangs", seconds=1.5) == "it took longer than 1.5 s and was killed"
    wait_for_the_end_of(*(int(word) for word in notes(folder)[0].split()[:2]))


def test_what_it_leaves_behind_does_not_hold_it_up(folder: Path):
    assert run(folder, "outside:leaves", seconds=60) == ""
    psutil.Process(int(notes(folder)[0].split()[0])).kill()


@pytest.mark.parametrize("name", ["python3.8", "python3.9", "python3.10", "python3.12", "python3.13"])
def test_it_runs_in_the_jobs_interpreter(folder: Path, name: str):
    found = (
        subprocess.run(
            [name, "-c", "import sys; print(sys.executable)"], capture_output=True, text=True, check=False
        )
        if _which(name)
        else None
    )
    if found is None or found.returncode:
        pytest.skip(f"no {name}")
    assert run(folder, "outside:plain", name, executable=found.stdout.strip()) == ""
    assert notes(folder) == [f"{name} []"]


def _which(name: str) -> bool:
    return any(os.access(f"{place}/{name}", os.X_OK) for place in os.environ["PATH"].split(os.pathsep))


@pytest.mark.skipif(
    os.getuid() != 0 or not shutil.which("python3", path="/usr/bin"), reason="needs root to be another user"
)
def test_it_runs_as_the_user_whose_process_asked_for_it():
    """A process that has given up the job's rights must not get them back by an undo."""
    call: dict[str, Any] = {
        "function": "subprocess:check_call",
        "args": [["sh", "-c", "test $(id -u):$(id -g) = 65534:65534"]],
        "place": {"executable": "/usr/bin/python3", "cwd": "/"},
    }
    entry = Entry(1, "k1", Kind.COMPENSABLE, 1, State.UNDOING, call=call)
    with workers() as some:
        assert "non-zero" in some.run(entry)
        call["user"] = [65534, 65534]
        assert some.run(entry) == ""


def test_one_process_does_all_that_one_function_has_to_do(folder: Path):
    with workers() as some:
        assert [some.run(effect(folder, "outside:numbered", n)) for n in range(3)] == ["", "", ""]
        assert some.run(effect(folder, "outside:numbered_too", 3)) == ""
        assert some.run(effect(folder, "outside:numbered", 4)) == ""
        first, *_, other, last = pids(folder)
        assert [line.split()[1] for line in notes(folder)] == ["0", "1", "2", "3", "4"]
        assert set(pids(folder)[:3]) == {first} == {last}
        assert other != first
        assert all(psutil.pid_exists(pid) for pid in (first, other))
    assert not any(psutil.pid_exists(pid) for pid in (first, other))


def test_one_that_kills_its_process_fails_alone(folder: Path):
    with workers() as some:
        outcomes = [some.run(effect(folder, "outside:dies_of", n, 1)) for n in range(4)]
    assert outcomes == ["", "it ended with 4", "", ""]
    first, deadly, third, last = pids(folder)
    assert first == deadly != third == last


def test_after_a_failure_the_rest_is_done_by_another_process(folder: Path):
    with workers() as some:
        outcomes = [some.run(effect(folder, "outside:stumbles_over", n, 1)) for n in range(3)]
    assert outcomes == ["", "SystemExit: enough", ""]
    first, second, third = pids(folder)
    assert first == second != third


@pytest.mark.slow
def test_one_whose_process_died_unasked_is_done_by_another(folder: Path):
    with workers() as some:
        assert some.run(effect(folder, "outside:dies_later")) == ""
        wait_for_the_end_of(*pids(folder))
        assert some.run(effect(folder, "outside:dies_later")) == ""
    assert len(set(pids(folder))) == 2


@pytest.mark.slow
def test_processes_that_nobody_needs_for_long_are_ended(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(worker, "PROCESSES", 1)
    with workers() as some:
        some.run(effect(folder, "outside:numbered", 1))
        some.run(effect(folder, "outside:numbered_too", 2))
        first, second = pids(folder)
        assert not psutil.pid_exists(first)
        assert psutil.pid_exists(second)


def test_a_script_is_loaded_once_for_all_that_it_has_to_do(folder: Path):
    with workers() as some:
        for n in range(2):
            assert some.run(effect(folder, "__main__:plain", n, script=str(folder / "outside.py"))) == ""
    assert notes(folder) == ["loaded []", "0 []", "1 []"]


def test_what_a_function_reads_is_empty_and_takes_nothing_from_the_next(folder: Path):
    with workers() as some:
        assert [some.run(effect(folder, "outside:reads")) for _ in range(2)] == ["", ""]
    assert notes(folder) == ["'' []"] * 2


def test_a_process_that_is_not_needed_any_more_ends_by_itself(folder: Path):
    with workers() as some:
        assert some.run(effect(folder, "outside:says_goodbye")) == ""
    assert notes(folder) == ["goodbye []"]


@pytest.mark.slow
def test_one_that_reads_nothing_is_not_waited_for_beyond_its_time(folder: Path):
    program = folder / "deaf"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    error = run(folder, "outside:plain", "x" * (4 << 20), executable=str(program), seconds=0.5)
    assert error == "it took longer than 0.5 s and was killed"
