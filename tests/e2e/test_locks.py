"""Locks on files that another process holds when the job is restored: named and refused, or waited for."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from support.processes import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.run import Lab, Run

pytestmark = pytest.mark.slow

LOCKS = {
    "flock": "fcntl.flock(f, fcntl.LOCK_EX)",
    "posix": "fcntl.lockf(f, fcntl.LOCK_EX, 10, 5)",
    "ofd": "fcntl.fcntl(f, 37, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 5, 10, 0))",
}
CONFLICTS = [("flock", "flock"), ("posix", "posix"), ("ofd", "ofd"), ("posix", "ofd"), ("ofd", "posix")]
HARMLESS = {
    "both shared": ("fcntl.flock(f, fcntl.LOCK_SH)", "fcntl.flock(f, fcntl.LOCK_SH)"),
    "other bytes": ("fcntl.lockf(f, fcntl.LOCK_EX, 10, 5)", "fcntl.lockf(f, fcntl.LOCK_EX, 5, 0)"),
    "of another kind": (LOCKS["flock"], LOCKS["posix"]),
}
PRELUDE = "import fcntl, os, struct, sys, time\nf = open('locked', 'r+')\n"
JOB = (
    "\nprint('up', flush=True)\nwhile not os.path.exists('finish'): time.sleep(0.02)\n"
    "print('done', flush=True)\n"
)
PATIENT = (
    "import sys; from ckptrun.criu import locks; locks.PATIENCE_SECONDS = 300\n"
    "from ckptrun.cli.main import main; sys.exit(main(sys.argv[1:]))"
)


def job(lock: str) -> tuple[str, ...]:
    return (sys.executable, "-c", PRELUDE + lock + JOB)


@contextmanager
def holding(lab: Lab, lock: str) -> Iterator[int]:
    """Have another process hold a lock; yields its PID."""
    holder = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + lock + "\nprint('held', flush=True); sys.stdin.read()"],
        cwd=lab.work,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    with holder:
        assert holder.stdout.readline() == b"held\n"
        yield holder.pid
        holder.stdin.close()


def interrupted(lab: Lab, lock: str) -> tuple[str, ...]:
    """Have a job checkpointed that holds a lock, and its machine lost; return the command."""
    (lab.work / "locked").write_bytes(b"x" * 100)
    run = lab.start(*job(lock))
    run.prints("up")
    run.checkpoint()
    run.kill_supervisor()
    return job(lock)


def goes_on(lab: Lab, run: Run) -> None:
    run.event("job-restored")
    (lab.work / "finish").touch()
    result = run.wait()
    assert (result.code, result.out) == (0, "done\n"), result.err


@pytest.mark.parametrize(("ours", "theirs"), CONFLICTS, ids="-".join)
def test_a_lock_that_another_process_holds_is_refused_by_name(lab: Lab, ours: str, theirs: str):
    command = interrupted(lab, LOCKS[ours])
    with holding(lab, LOCKS[theirs]) as pid:
        refused = lab.run(*command)
        assert refused.code == 74, refused.err
        assert (
            f"{lab.work}/locked, which the job had locked, is locked by process {pid} (python" in refused.err
        )
        assert "end that process or have it release the lock" in refused.err
    goes_on(lab, lab.start(*command))


@pytest.mark.parametrize("kind", LOCKS)
def test_a_lock_that_is_released_in_time_does_no_harm(lab: Lab, kind: str):
    command = interrupted(lab, LOCKS[kind])
    lab.program = (sys.executable, "-c", PATIENT)
    with holding(lab, LOCKS[kind]) as pid:
        run = lab.start(*command)
        run.says(f"waiting for the lock on {lab.work}/locked, held by process {pid} (python")
    goes_on(lab, run)


@pytest.mark.parametrize("name", HARMLESS)
def test_a_lock_that_is_not_in_the_way_does_no_harm(lab: Lab, name: str):
    ours, theirs = HARMLESS[name]
    command = interrupted(lab, ours)
    with holding(lab, theirs):
        goes_on(lab, lab.start(*command))


def test_the_jobs_own_locks_are_not_in_its_way(lab: Lab):
    (lab.work / "locked").write_bytes(b"x" * 100)
    run = lab.start(*job(LOCKS["flock"] + "\n" + LOCKS["posix"]))
    run.prints("up")
    run.checkpoint()
    run.restored(run.kill_job)
    (lab.work / "finish").touch()
    result = run.wait()
    assert result.code == 0
    assert "waiting" not in result.err
