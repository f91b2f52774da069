"""What a supervisor leaves to the next one, should it be killed: a first incarnation that can be gone on with as it is.

Only a job that lives in a container of its own outlasts its supervisor. A file says that nothing of it would be lost:
no checkpoint is being taken, no output is on its way in this process's memory, and the job has not spoken with ckptrun,
whose answers are in memory too. Without the file the next supervisor kills the job and restores its newest checkpoint.
docs/design/kubernetes.md says what goes on how.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptrun.capsule.container import EVENTS, UNWRITTEN
from ckptrun.core.state import Phase

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckptrun.capsule.hello import Hello
    from ckptrun.capsule.streams import Streams
    from ckptrun.core.state import State
    from ckptrun.supervisor.incarnation import Incarnation

FILE_NAME = "handover.json"
SETTLE_SECONDS = 0.2
"""How often output that is on its way is looked at again."""
_FIRST = 1
"""Number of the only incarnation that can be handed over: a machine that begins counts from it."""
_UNDECIDED = frozenset({Phase.NEW, Phase.LAUNCHING, Phase.WAITING, Phase.FLUSHING, Phase.ENDED})
"""What there is stays as it is: an end of the job's, too, can be handed over until something else is begun."""


@dataclass(frozen=True, slots=True)
class Handover:
    """What is left.

    Args:
        root_pid: the job root, by which it is known again.
        supervisor: PID of who leaves it.
        outputs: names of the streams whose pipes the shim keeps.
    """

    root_pid: int
    supervisor: int
    outputs: tuple[str, ...]

    def fits(self, hello: Hello) -> bool:
        """Say whether that is what a shim has, running or ended."""
        there = hello.root_pid == self.root_pid or (hello.root_pid is None and hello.ended is not None)
        return there and {*self.outputs, EVENTS, UNWRITTEN} <= set(hello.kept)  # a pipe may have ended since


def read(path: Path) -> Handover | None:
    """Return what was left; None if nothing was."""
    try:
        value = json.loads(path.read_text(encoding="ascii"))
        return Handover(
            int(value["root_pid"]), int(value["supervisor"]), tuple(str(name) for name in value["outputs"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


class Standing:
    """Keeps the file true; `observe` in the loop's thread, `spoken` in any.

    Args:
        path: of the file.
        streams: the job's.
        later: has something done in the loop's thread after some seconds.
    """

    def __init__(
        self, path: Path, streams: Streams, later: Callable[[float, Callable[[], None]], None]
    ) -> None:
        self._path = path
        self._streams = streams
        self._later = later
        self._lock = threading.Lock()
        self._spoken = False
        self._there = path.exists()
        self._looks = False
        self._may = False
        self._root = 0

    def observe(self, state: State, incarnation: Incarnation | None) -> None:
        """Take note of what the machine has decided, before it is done."""
        if incarnation is None or (incarnation.outlasting and state.phase in _UNDECIDED):
            return
        first = incarnation.outlasting and incarnation.number == _FIRST
        calm = state.phase is Phase.RUNNING and state.dump is None and not state.incarnation.condemned
        self._may, self._root = first and calm, incarnation.tree.root
        if not self._may:
            self.withdraw()
        elif not self._there:
            self._leave()

    def spoken(self) -> None:
        """Take note that the job has spoken with ckptrun; what it is told is not handed over."""
        with self._lock:
            self._spoken = True
        self.withdraw()

    def withdraw(self) -> None:
        """Leave nothing."""
        with self._lock:
            if self._there:
                try:
                    self._path.unlink(missing_ok=True)
                except OSError:
                    self._streams.broke()  # without the pipes it cannot be taken
                self._there = False

    def _leave(self) -> None:
        """Write the file, unless output is on its way: then a little later."""
        if not self._streams.settled:
            if not self._looks:
                self._looks = True
                self._later(SETTLE_SECONDS, self._look)
            return
        value = {"root_pid": self._root, "supervisor": os.getpid(), "outputs": sorted(self._streams.kept)}
        new = self._path.with_suffix(".new")
        with self._lock:
            if self._spoken:
                return
            with contextlib.suppress(OSError):  # a full disk: the job would be restored
                new.write_text(json.dumps(value), encoding="ascii")
                new.replace(self._path)
                self._there = True

    def _look(self) -> None:
        self._looks = False
        if self._may and not self._there:
            self._leave()
