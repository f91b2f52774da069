"""A job with a hook of a few lines, which writes down what it is told."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from ckptrun.hooking import options

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.run import Lab

JOB = (sys.executable, Path(__file__).parent / "jobs" / "count.py", "--steps", 20)
HOOK = f"""#!{sys.executable} -IS
import json, os, pathlib, sys
given = json.load(sys.stdin)
kept = pathlib.Path(__file__).parent
with open(kept / "contexts", "a") as file:
    print(json.dumps(given), file=file)
phase, answer = given["phase"], {{}}
BODY
print(json.dumps(answer))
"""


@pytest.fixture
def hook(lab: Lab) -> Callable[..., str]:
    """Makes a hook of a few lines, outside what a lost machine takes along; returns its SPEC."""

    def make(body: str = "pass", name: str = "hook") -> str:
        path = lab.folder / "hooks" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(HOOK.replace("BODY", body))
        path.chmod(0o755)
        return str(path)

    return make


def contexts(lab: Lab) -> list[dict[str, Any]]:
    """Return what hooks were told so far, each as the schema wants it."""
    file = lab.folder / "hooks" / "contexts"
    found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for given in found:
        jsonschema.validate(given, options.schema("context"))
    return found


def phases(lab: Lab) -> list[str]:
    return [given["phase"] for given in contexts(lab)]


def calls(lab: Lab) -> list[tuple[str, str]]:
    return [(event["phase"], event["outcome"]) for event in lab.events("hook")]


CHECKPOINT = ["pre-checkpoint", "post-checkpoint"]
