"""How CRIU is started: where one operation works, what starts a program in the capsule, what both directions share.

Used by `dumping` and `restoring`, and by whoever gives them a `Place` and a `Spawn`.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ckptrun.criu.program import Criu

LOG_LEVEL = "-v3"
END_SECONDS = 10.0
"""How long CRIU may take to end once it has been refused or cut off; then it is killed."""


class Process(Protocol):
    """A started CRIU."""

    pid: int

    def wait(self, timeout: float | None) -> int | None:
        """Return the exit code (negative: signal), or None when `timeout` seconds pass first."""

    def kill(self) -> None:
        """End it with SIGKILL, and what it left behind."""


class Spawn(Protocol):
    """Starts a program inside the capsule."""

    def __call__(self, argv: Sequence[str], env: Mapping[str, str], fds: Mapping[int, int]) -> Process:
        """Start `argv` with `env` as its whole environment; `fds` maps numbers inside to descriptors here."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one operation works.

    Args:
        criu: the program.
        folder: private, short path, empty: sockets and logs.
        action: path of the static helper, as it is found inside the capsule.
        unprivileged: pass ``--unprivileged``.
        at_hand: CRIU finds the folder as its working directory, not by its path: see `Program.folder`.
    """

    criu: Criu
    folder: Path
    action: str
    unprivileged: bool = False
    at_hand: bool = False

    def common(self, verb: str) -> list[str]:
        """Return the options dump and restore share."""
        folder = "." if self.at_hand else str(self.folder)
        options = [*self.criu.argv, verb, "--stream", "-D", folder, "-W", folder]
        options += ["-o", f"{verb}.log", LOG_LEVEL, "--action-script", self.action]
        options += ["--manage-cgroups=ignore", "--file-locks", "--ext-unix-sk"]
        if self.unprivileged:
            options.append("--unprivileged")
        return options


def clean(folder: Path) -> None:
    """Empty the folder of an operation."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)


def environment(place: Place) -> dict[str, str]:
    """CRIU needs a PATH for its own helpers and nothing else of ours.

    A distribution's CRIU comes with a plugin for CUDA, which would run ``cuda-checkpoint`` for every process inside the
    freeze, and have GPUs restored before the hook ``cuda`` has chosen which: it finds no plugins.
    """
    path = os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    version = ".".join(map(str, place.criu.version))
    return {"PATH": path, "LC_ALL": "C", "CKPTRUN_CRIU_VERSION": version, "CRIU_LIBS_DIR": str(place.folder)}


def ended(code: int | None) -> str:
    """Return how CRIU ended, in words; `code` is None if it did not."""
    if code is None:
        return "CRIU did not end"
    return f"CRIU was killed by signal {-code}" if code < 0 else f"CRIU failed with {code}"
