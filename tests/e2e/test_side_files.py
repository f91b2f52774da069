"""Files that a job writes besides its memory, closed again or renamed, come back with it, whatever dies."""

from __future__ import annotations

import sqlite3
import sys
from typing import TYPE_CHECKING

import pytest
from support.run import RESTORED

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.run import Lab, Run

pytestmark = pytest.mark.slow

STEPS = 40
JOB = f"""
import os, sqlite3, time
from pathlib import Path
os.makedirs("out")
for step in range(1, {STEPS} + 1):
    while not Path(f"go-{{(step - 1) // 10}}").exists():
        time.sleep(0.01)
    with open("log", "a") as log:
        log.write(f"{{step}}\\n")
    Path("state.tmp").write_text(str(step))
    os.rename("state.tmp", "state")
    os.makedirs(f"out/{{step // 10}}", exist_ok=True)
    Path(f"out/{{step // 10}}/{{step}}").write_text(str(step) * 1000)
    if step > 5:
        os.unlink(f"out/{{(step - 5) // 10}}/{{step - 5}}")
    base = sqlite3.connect("base")
    base.execute("pragma journal_mode=wal")
    base.execute("create table if not exists steps(step)")
    base.execute("insert into steps values(?)", (step,))
    base.commit()
    base.close()
base = sqlite3.connect("base")
print(base.execute("select count(*), count(distinct step) from steps").fetchone())
base.close()
"""


def go(lab: Lab, part: int) -> None:
    (lab.work / f"go-{part}").touch()


def at(run: Run, step: int) -> None:
    """Wait until the job waits for a part, every file of the step before it closed."""
    run.until(f"step {step}", lambda: _count(run.lab) == step)


def _count(lab: Lab) -> int:
    """Return how many steps are complete: their row comes last."""
    try:
        base = sqlite3.connect(f"file:{lab.work}/base?mode=ro", uri=True)
        try:
            return int(base.execute("select count(*) from steps").fetchone()[0])
        finally:
            base.close()
    except sqlite3.Error:
        return 0


def files(work: Path) -> dict[str, bytes]:
    """Return the job's files, by name; the database counts by what the job says of it."""
    return {
        str(path.relative_to(work)): path.read_bytes()
        for path in work.rglob("*")
        if path.is_file() and not path.name.startswith(("go-", "base"))
    }


def expect_result(lab: Lab, out: str) -> None:
    assert out == f"({STEPS}, {STEPS})\n"
    assert (lab.work / "log").read_text() == "".join(f"{step}\n" for step in range(1, STEPS + 1))
    outputs = {
        f"out/{step // 10}/{step}": (str(step) * 1000).encode() for step in range(STEPS - 4, STEPS + 1)
    }
    found = files(lab.work)
    assert found == {**outputs, "log": found["log"], "state": str(STEPS).encode()}


def kill_job(_lab: Lab, run: Run) -> Run:
    run.restored(run.kill_job)
    return run


def kill_supervisor(lab: Lab, run: Run) -> Run:
    run.kill_supervisor()
    before = len(lab.events())
    again = lab.start(sys.executable, "-c", JOB)
    again.event("job-restored", after=before)
    return again


def lose_files(lab: Lab, run: Run) -> Run:
    """As on another machine: nothing but the store."""
    run.process.kill()
    run.wait()
    lab.lose_machine()
    for path in sorted(lab.work.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    again = lab.start(sys.executable, "-c", JOB)
    again.event("job-restored")
    return again


@pytest.mark.parametrize("end", [kill_job, kill_supervisor, lose_files])
def test_closed_files_come_back(lab: Lab, end: Callable[[Lab, Run], Run]):
    run = lab.start(sys.executable, "-c", JOB)
    go(lab, 0)
    at(run, 10)
    run.checkpoint()
    before = files(lab.work)
    (lab.work / "notes").write_text("somebody else's")
    go(lab, 1)
    at(run, 20)
    assert files(lab.work) != before
    (lab.work / "go-1").unlink()
    run = end(lab, run)
    kept = {} if end is lose_files else {"notes": b"somebody else's"}
    assert files(lab.work) == {**before, **kept}
    (lab.work / "notes").unlink(missing_ok=True)
    run.checkpoint()
    for part in range(4):
        go(lab, part)
    at(run, STEPS)
    ended = run.wait()
    assert ended.code == 0, ended.err
    expect_result(lab, ended.out)


DATABASES = """
import os, sqlite3, tempfile
import time
from pathlib import Path
bases = {
    name: sqlite3.connect(name, timeout=0)
    for name in ("rows", "wal", os.path.join(tempfile.gettempdir(), "rows"), "/dev/shm/rows")
}
bases["wal"].execute("pragma journal_mode=wal")
def both(name):
    bases[name].execute("begin immediate")
    second = sqlite3.connect(name, timeout=0)
    try:
        second.execute("begin immediate")
        return "unlocked"
    except sqlite3.OperationalError as error:
        return str(error)
    finally:
        second.close()
        bases[name].rollback()
for base in bases.values():
    base.execute("create table rows(step integer)")
for step in range(30):
    for base in bases.values():
        base.execute("insert into rows values (?)", (step,))
        base.commit()
    print("step", step, flush=True)
    while not Path(f"go-{step // 10}").exists():
        time.sleep(0.01)
print(*[base.execute("select count(*), sum(step) from rows").fetchone() for base in bases.values()], flush=True)
print(*map(both, bases), sep=", ")
"""


@pytest.mark.parametrize("elsewhere", [False, True])
def test_databases_held_open_are_written_on(lab: Lab, elsewhere: bool):
    """SQLite compares the inode of its open file with that of the name, and locks by device and inode."""
    run = lab.start(sys.executable, "-c", DATABASES, options=("--interval", "off"))
    for part in range(2):
        run.prints(f"step {part * 10}\n")
        run.checkpoint()
        go(lab, part)
        run.prints(f"step {part * 10 + 10}\n")
        if elsewhere:
            run.kill_supervisor()
            (lab.work / f"go-{part}").unlink()
            for path in lab.work.iterdir():
                path.unlink()
                path.with_name(f"keeps the inode of {path.name}").touch()
            run = lab.start(sys.executable, "-c", DATABASES, options=("--interval", "off"))
            run.event(RESTORED)
            go(lab, part)
        else:
            run.restored(run.kill_job)
    go(lab, 2)
    result = run.wait()
    assert result.code == 0, result
    assert result.out.splitlines()[-2:] == [
        " ".join(["(30, 435)"] * 4),
        ", ".join(["database is locked"] * 4),
    ]
