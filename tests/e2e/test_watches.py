"""inotify and fanotify: watches are kept with their numbers, and no event is dropped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.run import COMMITTED
from support.twice import expect_same

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.run import Lab

pytestmark = pytest.mark.slow

JOBS = Path(__file__).parent / "jobs"
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

UNREAD = """
import ctypes, os, pathlib, time
LIBC = ctypes.CDLL(None, use_errno=True)
watched = pathlib.Path("watched")
watched.mkdir()
{setup}
assert fd >= 0 and watch >= 0, os.strerror(ctypes.get_errno())
(watched / "first").touch()
print("ready", flush=True)
while not pathlib.Path("read").exists(): time.sleep(0.01)
print(len(os.read(fd, 4096)) > 0, flush=True)
while not pathlib.Path("go").exists(): time.sleep(0.01)
(watched / "second").touch()
print(len(os.read(fd, 4096)) > 0)
"""
INOTIFY = "fd = LIBC.inotify_init1(0); watch = LIBC.inotify_add_watch(fd, os.fsencode(watched), 0x100)"
FANOTIFY = (
    "fd = LIBC.fanotify_init(0, os.O_RDONLY); "
    "watch = LIBC.fanotify_mark(fd, 1, ctypes.c_uint64(0x08000008), -100, os.fsencode(watched))"
)


def test_watches_in_private_and_ordinary_folders(lab: Lab):
    expect_same(lab, JOBS / "watches.py")


def expect_refusal(lab: Lab, setup: str) -> None:
    """Fail unless a checkpoint is refused while an event is unread, and taken when it is read; the job is restored."""
    run = lab.start(sys.executable, "-c", UNREAD.format(setup=setup))
    run.refused("process 1001 (python", "has not read all events of an inotify or fanotify descriptor (fd 3)")
    assert lab.events(COMMITTED) == []
    (lab.work / "read").touch()
    run.prints("ready\nTrue\n")
    run.checkpoint()
    run.restored(run.kill_job)
    (lab.work / "go").touch()
    result = run.wait()
    assert (result.code, result.out) == (0, "ready\nTrue\nTrue\n"), result.err


def test_events_that_nobody_has_read_are_not_dropped(lab: Lab):
    expect_refusal(lab, INOTIFY)


@root_only
def test_nor_are_those_of_fanotify(lab: Lab):
    expect_refusal(lab, FANOTIFY)


@pytest.fixture
def overlay(lab: Lab) -> Iterator[Path]:
    """A folder on an overlay, as the whole of a container's root is one."""
    layers = [lab.folder / name for name in ("lower", "upper", "scratch", "merged")]
    for folder in layers:
        folder.mkdir()
    lower, upper, scratch, merged = layers
    options = f"lowerdir={lower},upperdir={upper},workdir={scratch}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, merged], check=True)
    try:
        yield merged
    finally:
        lab.close()
        lab.expect_nothing_left()
        subprocess.run(["umount", merged], check=True)


@root_only
def test_a_watch_on_an_overlay_is_refused_and_the_job_runs_on(lab: Lab, overlay: Path):
    lab.environment = {"WATCHED": str(overlay / "folder")}
    expect_unknown_name(lab)


@root_only
def test_so_is_an_ordinary_users_on_the_machines_filesystems(ordinary: Lab):
    expect_unknown_name(ordinary)


def expect_unknown_name(lab: Lab) -> None:
    run = lab.start(sys.executable, JOBS / "watches.py", "ordinary")
    run.refused("process 1001 (python", "watches a file (fd 3) whose name CRIU cannot learn")
    (lab.work / "go").touch()
    result = run.wait()
    assert (result.code, result.out.split()[:3]) == (0, ["ready", "ordinary", "(1,"]), result.err
    assert lab.events(COMMITTED) == []
