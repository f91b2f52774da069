"""A job whose processes are not all the same user's: restored, where ckptrun may read their limits, or refused."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import namespace_root
from support.run import COMMITTED
from support.twice import expect_same

from ckptrun.criu.ownrights import effective_capabilities

if TYPE_CHECKING:
    from support.run import Lab

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else"),
]

JOBS = Path(__file__).parent / "jobs"
SYS_RESOURCE = 24
WITHOUT = ("/usr/bin/setpriv", "--bounding-set", "-sys_resource")


def test_children_that_became_other_users_are_restored(lab: Lab):
    if not effective_capabilities() >> SYS_RESOURCE & 1:
        lab.prefix = namespace_root.command()
        lab.options = (
            *lab.options,
            "--allow-io-uring",
        )  # CRIU may not suspend its filter in such a namespace
    expect_same(lab, JOBS / "users.py")


def expect_refusal(lab: Lab, *words: object, out: str) -> None:
    lab.prefix = (*WITHOUT, *lab.prefix)
    run = lab.start(*words)
    run.refused("belongs to another user, whose limits may not be read", "process 1002 (", "SYS_RESOURCE")
    (lab.work / "go").touch()
    result = run.wait()
    assert (result.code, out in result.out) == (0, True), f"{result.out}\n{result.err}"
    assert lab.events(COMMITTED) == []


def test_without_the_right_to_read_their_limits_they_are_refused_and_the_job_runs_on(lab: Lab):
    expect_refusal(lab, sys.executable, JOBS / "users.py", "child", out="('of root', True, True) True")


def test_under_sudo_a_program_that_is_root_by_its_mode_is_refused_and_the_job_runs_on(sudo: Lab):
    program = sudo.work / "sleeping"
    shutil.copy("/bin/sleep", program)
    program.chmod(0o4755)
    script = "./sleeping 600 & echo ready; while [ ! -e go ]; do sleep 0.05; done; echo done"
    expect_refusal(sudo, "bash", "-c", script, out="done")
