"""What a run leaves of the job's state to the next one on this machine: the log, and a note of what it is.

The note says which state the store had when it was written: only while that is the store's newest is the log newer.
Called by `jobstate`.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptrun.appstate.mark import EMPTY, Mark
from ckptrun.errors import CorruptError

if TYPE_CHECKING:
    from ckptrun.appstate.log import Log

NAME = "kept.json"


class KeptLog:
    """The log of a lineage's job on this machine, from run to run.

    Args:
        log: in the folder that the runs share.

    Attributes:
        elsewhere: the last run has left a state in the store, as far as this machine knows.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._path = log.folder / NAME
        self._noted: tuple[object, ...] | None = None
        self.elsewhere = False

    def adopt(self) -> Mark | None:
        """Go on with the log of the last run; return what the store had then. None: there is none to go on with."""
        try:
            kept = json.loads(self._path.read_bytes())
            base = Mark.from_json(kept["base"])
            self.elsewhere = base != EMPTY
            if kept["boot"] != boot() and not kept["synced"]:
                return None  # how much of it the machine has written is not known
            generation, origin = str(kept["generation"]), Mark.from_json(kept["origin"])
            if not self._log.adopt(generation, origin):
                return None
            if base.generation not in {generation, origin.generation} or self._log.size >= base.bytes:
                return base
            self._log.remove()  # somebody has cut it
        except (OSError, ValueError, KeyError, TypeError, CorruptError):
            pass  # there is no note, or none that names a log
        return None

    def note(self, base: Mark | None, *, synced: bool = False) -> None:
        """Have the next run find the log, should this one be killed; cheap where nothing has changed.

        Args:
            base: the newest state in the store; None if that is not known: then it finds none.
            synced: the log survives the machine's end.
        """
        with self._log.lock:
            log = self._log
            there = log.file is not None and base is not None
            state = (log.generation, log.origin, base, synced) if there else ()
            if state == self._noted:
                return
            with suppress(OSError):  # a full disk: a run that is killed leaves less behind
                if there and base is not None:
                    self._write(
                        generation=log.generation,
                        origin=log.origin.to_json(),
                        base=base.to_json(),
                        boot=boot(),
                        synced=synced,
                    )
                else:
                    self._path.unlink(missing_ok=True)
                self._noted = state

    def remove(self, stored: Mark) -> None:
        """Leave nothing but the word that there is a state in the store; of the empty state, nothing."""
        self._log.remove()
        with suppress(OSError):
            if stored == EMPTY:
                self._path.unlink(missing_ok=True)
                self._log.folder.rmdir()
            else:
                self._write(base=stored.to_json())

    def _write(self, **value: Any) -> None:
        temporary = self._path.with_suffix(".new")
        temporary.write_text(json.dumps(value), encoding="ascii")
        temporary.replace(self._path)
        if value.get("synced"):
            for path in (self._path, self._log.folder):
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)


def boot() -> str:
    """Return the kernel's random boot id."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
