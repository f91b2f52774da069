"""Pipes to and from a job that dies, or whose ckptrun dies, on the way."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support.run import Collector, die_with_parent

if TYPE_CHECKING:
    from support.run import Lab

pytestmark = pytest.mark.slow

OFTEN = ("--interval", "0.3s")
TALK = """
import sys, time
from pathlib import Path
step = 0
while not Path('finish').exists():
    step += 1
    sys.stdout.write(f"{step}\\n")  # in one write, buffered or not: a checkpoint may come between two
    sys.stdout.flush()
    time.sleep(0.01)
print('end', flush=True)
"""
COPY = """
import sys, time
with open('copied.txt', 'a', buffering=1) as copy:
    for number, line in enumerate(sys.stdin):
        copy.write(line)
        if number < 200:
            time.sleep(0.01)
"""


def test_tee_gets_every_line_though_the_job_is_killed_in_the_middle(lab: Lab):
    with subprocess.Popen(
        ["tee", "copy.txt"],
        cwd=lab.work,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call
    ) as tee:
        assert tee.stdin is not None
        assert tee.stdout is not None
        passed = Collector(tee.stdout.fileno())
        run = lab.start(sys.executable, "-c", TALK, options=OFTEN, stdout=tee.stdin)
        tee.stdin.close()
        run.commit(2)
        run.restored(run.kill_job)
        run.commit()
        (lab.work / "finish").touch()
        assert run.wait().code == 0
        lines = passed.end().decode().splitlines()
    assert (lab.work / "copy.txt").read_text().splitlines() == lines
    assert lines[-1] == "end"
    assert all(line.isdigit() for line in lines[:-1]), lines
    steps = [int(line) for line in lines[:-1]]
    assert sorted(set(steps)) == list(range(1, max(steps) + 1)), "no line is missing"


def test_input_from_a_pipe_is_not_lost_though_more_is_given_than_the_pipe_holds(lab: Lab):
    given = "".join(f"line {number}\n" for number in range(40000)).encode()
    half = len(given) // 2
    run = lab.start(sys.executable, "-c", COPY, options=OFTEN, stdin=subprocess.PIPE)
    run.stdin.write(given[:half])
    run.stdin.flush()
    run.commit()
    run.restored(run.kill_job)
    run.stdin.write(given[half:])
    run.stdin.close()
    run.restored(run.kill_job)
    result = run.wait()
    assert result.code == 0, result.err
    assert (lab.work / "copied.txt").read_bytes() == given
