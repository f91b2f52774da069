"""Makes the job root adopt early: a child-subreaper while CRIU still restores it, before anybody of its tree ends.

Used by `restoring` only. docs/design/objects.md says why; the static helper does it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptrun.criu.engine import Spawn

_SECONDS = 10.0
"""How long the helper may take; it needs a millisecond."""


class Adoption:
    """Watches which images a restore asks for, and acts at the right moment.

    Args:
        helper: path of the static helper inside the capsule.
        root_pid: of the job root; 0: nothing is to be done.
        spawn: starts it.
    """

    def __init__(self, helper: str, root_pid: int, spawn: Spawn) -> None:
        self._helper = helper
        self._root_pid = root_pid
        self._spawn = spawn

    def asked(self, name: str) -> None:
        """Act when the first process below the root is about to be made: the root asks for its image and waits.

        If that fails the restore goes on: a process that is out of the tree is named before the next dump.
        """
        if not self._root_pid or not name.startswith("core-") or name == f"core-{self._root_pid}.img":
            return
        argv = [self._helper, "subreaper", str(self._root_pid)]
        self._root_pid = 0
        with contextlib.suppress(OSError):
            process = self._spawn(argv, {}, {})
            if process.wait(_SECONDS) is None:
                process.kill()
