"""``--user``: root runs the job as somebody who has no capability and can never have one, before and after restores."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from jobs import count
from support.as_user import NOBODY, UNNAMED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.run import Lab, Run

from support import as_user
from support.run import Lab as Machine

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a job as somebody else"),
]

JOBS = Path(__file__).parent / "jobs"
STEPS = 100
COUNT = (sys.executable, JOBS / "count.py", "--steps", STEPS)
NO_CAPABILITY = "0000000000000000"
TELLING = """
import os, pathlib, sys, tempfile, time
print(os.getresuid(), os.getresgid(), sorted(os.getgroups()), os.environ.get("HOME"), flush=True)
with tempfile.NamedTemporaryFile() as file:
    assert os.stat(file.name).st_uid == os.getuid()
assert os.stat(os.environ["TMPDIR"]).st_uid == os.getuid()
while pathlib.Path("hold").exists():
    time.sleep(0.02)
print("done")
"""
USURPING = """
import os, pathlib, time
home = pathlib.Path("/dev/shm/.ckptrun")
name = next((home / "bin").glob("stub-*")).name
try:
    (home / "bin").rename(home / "before")
    (home / "bin").mkdir()
    (home / "bin" / name).write_text(f"#!/bin/sh\\ngrep CapEff /proc/self/status > {os.getcwd()}/taken\\n")
    (home / "bin" / name).chmod(0o755)
except PermissionError:
    pass
pathlib.Path("tried").touch()
while pathlib.Path("hold").exists():
    time.sleep(0.02)
"""


@pytest.fixture
def machine(open_folder: Path) -> Iterator[Lab]:
    """A machine whose ckptrun is root's, and whose folders anybody may use."""
    prefix = as_user.command(0, 0, open_folder / "home")
    with Machine(open_folder, prefix=prefix, options=("--interval", "off")) as lab:
        lab.work.chmod(0o777)
        yield lab
        lab.close()
        lab.expect_nothing_left()


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def expect_restricted(run: Run, uid: int, gid: int) -> None:
    """Every process of the job is the user's, and has nothing that it could gain a capability by."""
    first = run.job_pid()
    for pid in (first, int(status(first)["PPid"])):  # the job, and the job root above it
        found = status(pid)
        assert found["Uid"].split() == [str(uid)] * 4
        assert found["Gid"].split() == [str(gid)] * 4
        sets = {name: found[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
        assert sets == dict.fromkeys(sets, NO_CAPABILITY)
        assert found["NoNewPrivs"] == "1"
        assert found["Seccomp"] == "2"


@pytest.mark.parametrize(
    ("user", "uid", "gid"),
    [
        ("nobody", NOBODY, pwd.getpwnam("nobody").pw_gid),
        (str(UNNAMED), UNNAMED, 0),
        ("4711:4712", 4711, 4712),
        ("root", 0, 0),
    ],
)
def test_the_job_has_no_capability_before_and_after_a_restore(machine: Lab, user: str, uid: int, gid: int):
    machine.hold()
    run = machine.start(*COUNT, options=("--user", user))
    expect_restricted(run, uid, gid)
    run.checkpoint()
    run.restored(run.kill_job)
    expect_restricted(run, uid, gid)
    result = run.finish()
    assert (result.code, result.out) == (0, f"{count.result(STEPS)}\n"), result.err
    assert (machine.work / "log.txt").stat().st_uid == uid


def test_another_run_goes_on_from_the_store_as_the_same_user_and_no_other(machine: Lab):
    machine.hold()
    options = ("--user", str(UNNAMED))
    run = machine.start(*COUNT, options=options)
    run.checkpoint()
    run.kill_supervisor()
    other = machine.start(*COUNT)  # as root
    refused = other.wait()
    assert refused.code == 74
    assert f"kind 'restricted' with uid {UNNAMED}" in refused.err
    again = machine.start(*COUNT, options=options)
    again.event("job-restored")
    expect_restricted(again, UNNAMED, 0)
    assert again.finish().out == f"{count.result(STEPS)}\n"


def test_the_user_has_its_groups_its_home_and_its_own_tmpdir(machine: Lab):
    entry = next(one for one in pwd.getpwall() if one.pw_name == "games")
    expected = sorted(set(os.getgrouplist("games", entry.pw_gid)))
    machine.prefix = (*machine.prefix, "/usr/bin/env", f"HOME={pwd.getpwuid(0).pw_dir}")
    result = machine.run(sys.executable, "-c", TELLING, options=("--user", "games"))
    ids = ((entry.pw_uid,) * 3, (entry.pw_gid,) * 3)
    assert result.out == f"{ids[0]} {ids[1]} {expected} {entry.pw_dir}\ndone\n", result.err


def test_a_home_that_is_not_roots_stays(machine: Lab):
    result = machine.run("sh", "-c", 'echo "$HOME"', options=("--user", str(UNNAMED)))
    assert result.out == f"{machine.home}\n"


def test_a_program_that_is_root_by_its_mode_is_not_root_here(machine: Lab):
    program = machine.work / "id"
    shutil.copy("/usr/bin/id", program)
    program.chmod(0o4755)
    assert machine.run("./id", "-u", options=("--user", str(UNNAMED))).out == f"{UNNAMED}\n"


def test_nothing_that_the_job_puts_in_the_helpers_place_gets_ckptruns_rights(machine: Lab):
    machine.hold()
    run = machine.start(sys.executable, "-c", USURPING, options=("--user", str(UNNAMED)))
    run.until("the job has tried", (machine.work / "tried").exists)
    machine.ask("checkpoint", "--wait")
    assert not (machine.work / "taken").exists()
    assert run.finish().code == 0


def test_named_by_the_caller_of_sudo_it_wins(sudo: Lab):
    sudo.work.chmod(0o777)
    assert sudo.run("id", "-u", options=("--user", str(UNNAMED))).out == f"{UNNAMED}\n"
    sudo.name = "another"
    assert (
        sudo.run("grep", "^CapBnd", "/proc/self/status", options=("--user", "nobody")).out.split()[1]
        == NO_CAPABILITY
    )


def test_an_ordinary_user_may_name_itself_alone(ordinary: Lab):
    assert ordinary.run("id", "-u", options=("--user", str(UNNAMED))).code == 0
    refused = ordinary.run("true", options=("--user", "nobody"))
    assert refused.code == 77
    assert "only root may run a job as somebody else" in refused.err
    assert "runAsUser: 0" in refused.err


def test_a_user_that_nobody_knows_is_refused_by_name(machine: Lab):
    refused = machine.run("true", options=("--user", "no-such-user"))
    assert refused.code == 78
    assert "no user 'no-such-user'" in refused.err
    refused = machine.run("true", options=("--user", "root:no-such-group"))
    assert "no group 'no-such-group'" in refused.err


def test_without_a_capability_that_another_users_job_needs_it_is_refused_at_the_start(machine: Lab):
    machine.prefix = ("/usr/bin/setpriv", "--bounding-set", "-setuid,-kill", *machine.prefix)
    refused = machine.run("true", options=("--user", str(UNNAMED)))
    assert refused.code == 77
    assert "root lacks KILL, SETUID" in refused.err
    assert "securityContext.capabilities.add: [KILL, SETUID]" in refused.err
