"""docs/hooks.md, as a newcomer goes through it: every session on the page is run, and says what the page says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hooked import JOB

if TYPE_CHECKING:
    from support.run import Lab

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("held")]

PAGE = (Path(__file__).parents[2] / "docs" / "hooks.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SECONDS = re.compile(r"\(\d+\.\d\d s\)")
RUN = "ckptrun --name tour "


def sessions() -> list[tuple[str, str]]:
    """Return each command of the page with what it is to print."""
    found = []
    for language, text in BLOCKS:
        if not language and text.startswith("$ "):
            found += [tuple(part.partition("\n")[::2]) for part in text.removeprefix("$ ").split("\n$ ")]
    return [
        (command, f"{output}\n" if output and not output.endswith("\n") else output)
        for command, output in found
    ]


def block(language: str, beginning: str) -> str:
    (found,) = (text for kind, text in BLOCKS if kind == language and text.startswith(beginning))
    return found


@pytest.fixture
def folder(lab: Lab) -> Path:
    """Where the reader sits: with a feed, a training and the page's files."""
    (lab.folder / "feed").mkdir()
    (lab.folder / "feed" / "position").write_text("17")
    (lab.work / "feed.py").write_text(here(lab, block("python", "# feed.py\n")))
    (lab.work / "train.py").write_text("raise SystemExit('it was started')\n")
    programs = lab.folder / "programs"  # a bare Debian has no `python`
    programs.mkdir()
    (programs / "python").symlink_to(sys.executable)
    lab.environment = {**lab.environment, "PATH": f"{programs}:{os.environ['PATH']}"}
    return lab.work


def here(lab: Lab, text: str) -> str:
    """Return a text of the page with paths of the test's machine."""
    for theirs, ours in (
        ("/srv/feed", lab.folder / "feed"),
        ("/tmp/told", lab.folder / "told"),
        ("/home/me/venv/bin/python", sys.executable),
        ("/home/me/tour", lab.work),
    ):
        text = text.replace(theirs, str(ours))
    return text


def test_every_session_says_what_the_page_says(lab: Lab, folder: Path):
    tried = 0
    for command, output in sessions():
        if command == "cat tell.sh":
            (folder / "tell.sh").write_text(here(lab, output))
        elif not command.startswith(RUN):
            tried += 1
            words = here(lab, command).replace("ckptrun ", f"{sys.executable} -m ckptrun ", 1)
            done = subprocess.run(
                words,
                shell=True,
                cwd=folder,
                env=lab.env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            assert SECONDS.sub("(0.00 s)", done.stdout) == SECONDS.sub("(0.00 s)", here(lab, output)), command
    assert tried >= 6
    shown = next(text for language, text in BLOCKS if not language and "on-exit of tour" in text)
    assert (lab.folder / "told").read_text().split(" ", 1)[1] == shown.splitlines()[0].split(" ", 1)[1] + "\n"


def test_the_tour_is_told_as_the_page_shows_it_and_events_have_what_it_lists(lab: Lab, folder: Path):
    (command,) = (command for command, _ in sessions() if command.startswith(RUN))
    (spec,) = re.findall(r"--hook '([^']+)'", command)
    (script,) = (output for command, output in sessions() if command == "cat tell.sh")
    (folder / "tell.sh").write_text(here(lab, script))
    (folder / "tell.sh").chmod(0o755)
    (folder / "ckptrun.toml").write_text(block("toml", '[hooks."feed:hook"]'))
    lab.name = "tour"
    run = lab.start(*JOB, options=("--hook", spec))
    run.checkpoint()
    run.restored(run.kill_job)
    assert lab.ask("stop").code == 0
    assert run.wait().code == 75
    told = (lab.folder / "told").read_text()
    shape = re.compile(
        r"^\d\d:\d\d:\d\d (?:post-commit|on-failure|on-exit) of tour, checkpoint (?:\w+-\d{4}|none)$"
    )
    shown = next(text for language, text in BLOCKS if not language and "on-exit of tour" in text)
    for text in (told, shown.split("\n", 1)[1]):
        assert all(shape.match(line) for line in text.splitlines()), text
        assert text.splitlines()[-1].endswith("on-exit of tour, checkpoint none")
    kinds = {}
    for event in (*lab.events("hook"), *lab.events("hook-event")):
        kinds.setdefault((event["event"], event["hook"]), set(event))
    listed = next(text for language, text in BLOCKS if not language and text.startswith('{"time"'))
    for line in listed.splitlines():
        event = json.loads(line)
        assert set(event) <= kinds[event["event"], event["hook"]], event
    assert tomllib.loads(block("toml", '[hooks."feed:hook"]'))
