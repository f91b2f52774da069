"""Run a ready-made hook's program as the contract says: context in, result out, nothing of ckptrun around it."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from support.processes import PATIENCE, die_with_parent

if TYPE_CHECKING:
    from types import ModuleType

HOOKS = Path(__file__).parents[2] / "hooks"
CREATED = 1_700_000_000.5


@dataclass(frozen=True)
class Answer:
    """What a hook's call has left."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        assert self.code == 0, self.err
        return json.loads(self.out) if self.out.strip() else {}

    @property
    def data(self) -> dict[str, Any]:
        return dict(self.result["data"])

    @property
    def reason(self) -> str:
        """Why the call has failed, as ckptrun sees it."""
        assert self.code != 0, self.out
        return self.err.strip().splitlines()[-1]

    def event(self, name: str) -> dict[str, Any]:
        """Return the fields of the only event of this name."""
        (found,) = (event for event in self.result.get("events", []) if event["event"] == name)
        return {key: value for key, value in found.items() if key != "event"}


def context(phase: str, **fields: Any) -> dict[str, Any]:
    """Return a whole context; the checkpoint is ``c-1`` unless told."""
    return {
        "version": 1,
        "phase": phase,
        "hook": "under-test",
        "lineage": "train",
        "run": "run-1",
        "epoch": 7,
        "incarnation": 3,
        "checkpoint": {"id": "c-1", "trigger": "interval", "created": CREATED},
        "job": {"command": ["python", "train.py"], "cwd": "/", "pids": [], "root": None},
        "outcome": None,
        "cause": None,
        "exit": None,
        "options": {},
        "timeout": 30.0,
        "data": None,
        "messages": None,
        "dry_run": False,
        **fields,
    }


def start(name: str, given: dict[str, Any], env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start the program; its standard input has the context."""
    process = subprocess.Popen(
        [sys.executable, str(HOOKS / name / "hook.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **(env or {})},
        start_new_session=True,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(given).encode())
    process.stdin.close()
    process.stdin = None
    return process


def call(name: str, phase: str, env: dict[str, str] | None = None, **fields: Any) -> Answer:
    """Run the program for one phase."""
    process = start(name, context(phase, **fields), env)
    try:
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    return Answer(process.returncode, out.decode(), err.decode())


@functools.cache
def program(name: str) -> ModuleType:
    """Return a hook's program as a module."""
    path = HOOKS / name / "hook.py"
    spec = importlib.util.spec_from_file_location(f"hook_program_{name.replace('-', '_')}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with patch.object(sys, "path", [str(path.parent), *sys.path]):  # its own folder first, as for a program
        spec.loader.exec_module(module)
    return module


def call_inside(name: str, phase: str, **fields: Any) -> Answer:
    """Do as `call`, but in this process: for programs that take long to start."""
    given = io.StringIO(json.dumps(context(phase, **fields)))
    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.object(sys, "path", [str(HOOKS / name), *sys.path]))
        stack.enter_context(patch.object(sys, "stdin", given))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        code = program(name).main()
    return Answer(code, out.getvalue(), err.getvalue())
