"""The demo tells the truth: it exits with 0 only if all is equal, and leaves nothing behind.

However soon its job would be done: there is always something left to kill.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest
from support import postgres
from support.processes import PATIENCE, die_with_parent
from support.run import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


def start(folder: Path, *words: str, program: str = "demo.py") -> subprocess.Popen[str]:
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "examples" / program), *words],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call
    )


def left_behind(folder: Path) -> list[str]:
    commands = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    return [*map(str, folder.iterdir()), *(command for command in commands if str(folder) in command)]


def test_the_demo_ends_well_and_repeats_its_seed(tmp_path: Path):
    demo = start(tmp_path, "--seed", "7", "--steps", "60")
    told, _ = demo.communicate(timeout=3 * PATIENCE)
    assert demo.returncode == 0, told
    assert told.count("SIGKILL to") == 3, told
    assert "seed 7" in told
    assert "DIFFERENT" not in told
    assert "\x1b" not in told  # plain when it is not shown on a terminal
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path, signum: int):
    demo = start(tmp_path)
    assert demo.stdout is not None
    for line in demo.stdout:
        if "is in the store" in line:
            break
    demo.send_signal(signum)
    rest = demo.communicate(timeout=PATIENCE)[0]
    assert demo.returncode == 130, rest
    deadline = time.monotonic() + PATIENCE
    while left := left_behind(tmp_path):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def test_the_story_of_the_orders_ends_well_and_leaves_nothing_behind(open_folder: Path):
    postgres.programs()  # without them it is skipped
    story = start(open_folder, "--seed", "5", "--kills", "2", "--orders", "3", program="orders_world.py")
    told, _ = story.communicate(timeout=3 * PATIENCE)
    assert story.returncode == 0, told
    assert told.count("SIGKILL to the job") == told.count("SIGKILL to ckptrun") == 1, told
    assert told.count("  equal  ") == 7, told
    assert left_behind(open_folder) == []
