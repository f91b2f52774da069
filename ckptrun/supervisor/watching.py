"""Connects each new capsule with the file journal, so that it learns what the job writes and closes again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptrun.capsule.capsule import Capsule
    from ckptrun.journal import Journal


def watcher(journal: Journal, cwd: str, say: Callable[[str], None]) -> Callable[[str, Capsule], None]:
    """Return what an incarnation calls with its new capsule; what cannot be watched is said once."""
    said: set[str] = set()

    def watch(root: str, capsule: Capsule) -> None:
        problem = journal.watch(root, capsule.watch, capsule.sync, cwd)
        if problem and problem not in said:
            said.add(problem)
            say(
                f"{problem}: a restore brings back the files that are open or mapped at a checkpoint, and what "
                "--preserve names; files written and closed before it stay as they are"
            )

    return watch
