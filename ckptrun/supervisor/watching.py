"""Connects each new capsule with the file journal, so that it learns what the job writes and closes again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil

from ckptrun.capsule.container import EVENTS, UNWRITTEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptrun.capsule.capsule import Capsule
    from ckptrun.journal import Journal

EARLIER_SECONDS = 1.0
"""The kernel's word of when a process began is not exact."""


def watcher(
    journal: Journal, cwd: str, say: Callable[[str], None], former: int = 0
) -> Callable[[str, Capsule], None]:
    """Return what an incarnation calls with its new capsule; what cannot be watched is said once.

    That raises OSError where the watch of an incarnation that runs already cannot be gone on with; `former` is the PID
    of the process that has begun it.
    """
    said: set[str] = set()

    def watch(root: str, capsule: Capsule) -> None:
        if capsule.kept:
            _go_on(journal, root, capsule, former)
            return
        problem = journal.watch(root, capsule.watch, capsule.sync, cwd)
        if problem and problem not in said:
            said.add(problem)
            say(
                f"{problem}: a restore brings back the files that are open or mapped at a checkpoint, and what "
                "--preserve names; files written and closed before it stay as they are"
            )

    return watch


def _go_on(journal: Journal, root: str, capsule: Capsule, former: int) -> None:
    """Go on with the watch that an earlier process has begun. Raises OSError."""
    events, batch = capsule.kept[EVENTS], capsule.kept[UNWRITTEN]
    began = psutil.Process(capsule.top_pid).create_time() - EARLIER_SECONDS
    journal.go_on(root, lambda log: capsule.watch(events, log, batch, former), capsule.sync, began)
