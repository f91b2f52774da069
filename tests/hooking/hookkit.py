"""Hooks made of a few lines, and the parts of `ckptrun.hooking` put together as a run has them."""

from __future__ import annotations

import os
import sys
import textwrap
from typing import TYPE_CHECKING, Any

from ckptrun.capsule import helper
from ckptrun.hooking.contract import Checkpoint, Hook, Occasion, Phase, Surroundings
from ckptrun.hooking.discovery import Discovery
from ckptrun.hooking.phases import Hooks
from ckptrun.hooking.spec import gathered

if TYPE_CHECKING:
    from pathlib import Path

    from ckptrun.hooking.messages import Mailbag

LAUNCHER = (str(helper.built_path()), "hook", str(os.getpid()))
CHECKPOINT = Checkpoint("abc-0001", "request", 1.0)
BEFORE = Occasion(Phase.PRE_CHECKPOINT, 1, CHECKPOINT)
AFTER = Occasion(Phase.POST_CHECKPOINT, 1, CHECKPOINT, outcome={"ok": True, "error": None})
COMMITTED = Occasion(Phase.POST_COMMIT, 1, CHECKPOINT)


def script(path: Path, body: str, *, python: bool = True) -> Path:
    """Write an executable; a Python one has the context as `given`, and `answer` to give its result."""
    head = f"#!{sys.executable} -IS\n" if python else "#!/bin/sh\n"
    prelude = "import json, os, sys, time, signal\n"
    prelude += "given = json.load(sys.stdin)\nanswer = lambda **r: print(json.dumps(r))\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(head + (prelude if python else "") + textwrap.dedent(body))
    path.chmod(0o755)
    return path


class Parts:
    """A run's hooks without a run.

    Args:
        cwd: where they run.
        specs: as on the command line.
        tables: as in ckptrun.toml.
        mailbag: what the job has deferred.
    """

    def __init__(
        self,
        cwd: Path,
        *specs: str,
        tables: dict[str, dict[str, Any]] | None = None,
        mailbag: Mailbag | None = None,
    ) -> None:
        self.told: list[str] = []
        self.events: list[dict[str, Any]] = []
        self.now = 0.0
        self.environment = {"PATH": os.environ["PATH"]}
        found = Discovery(cwd, cwd, self.environment, LAUNCHER).hooks(
            gathered(specs, tables or {}, os.environ)
        )
        around = Surroundings("train", "run-1", ("python", "train.py"), str(cwd), self.environment)
        self.hooks = Hooks(
            found,
            around,
            LAUNCHER,
            epoch=lambda: 7,
            tell=self.told.append,
            record=lambda event, **fields: self.events.append({"event": event, **fields}),
            clock=lambda: self.now,
            mailbag=mailbag,
        )

    def __getitem__(self, name: str) -> Hook:
        return next(hook for hook in self.hooks.hooks if hook.name == name)

    def calls(self) -> list[tuple[str, str, str]]:
        """Return hook, phase and outcome of each call so far."""
        return [(e["hook"], e["phase"], e["outcome"]) for e in self.events if e["event"] == "hook"]
