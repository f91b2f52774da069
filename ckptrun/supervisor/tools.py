"""What every dump and restore of a run uses, and the logs that they leave."""

from __future__ import annotations

import contextlib
import shutil
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptrun.supervisor.dwelling import Here
from ckptrun.supervisor.hooks import RunsHooks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckptrun.capsule.streams import Streams
    from ckptrun.capsule.visit import Place
    from ckptrun.core.events import Event
    from ckptrun.criu.images import ImageReader
    from ckptrun.criu.program import Criu
    from ckptrun.journal import Journal
    from ckptrun.supervisor.binaries import Binaries
    from ckptrun.supervisor.channel import Channel
    from ckptrun.supervisor.dwelling import Dwelling
    from ckptrun.supervisor.jobstate import JobState
    from ckptrun.supervisor.ledger import Effects
    from ckptrun.supervisor.machine import Machine
    from ckptrun.supervisor.network import Network
    from ckptrun.supervisor.privilege import Privilege

KEPT_LOGS = 8
"""CRIU logs of failed operations kept per lineage."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What every dump and restore of a run uses."""

    criu: Criu
    reader: ImageReader
    network: Network
    privilege: Privilege
    streams: Streams
    journal: Journal
    machine: Machine
    binaries: Binaries
    workplace: Path
    logs: Path
    post: Callable[[Event], None]
    note: Callable[[str], None]
    channel: Channel
    hooks: RunsHooks = field(default_factory=RunsHooks)
    effects: Effects | None = None
    state: JobState | None = None
    dwelling: Dwelling = field(default_factory=Here)
    alone: threading.Lock = field(default_factory=threading.Lock)
    """Held by a dump, and by a restore: a dump whose job has died ends before the next incarnation uses the journal."""

    @property
    def there(self) -> Place:
        """What runs functions that look at the job's files, or change them, where they are."""
        return self.dwelling.there

    def keep_log(self, operation: str, checkpoint: str) -> None:
        """Keep CRIU's log of a failed operation, a few of the newest: ``ckptrun explain`` reads them."""
        log = self.workplace / operation / f"{operation}.log"
        with contextlib.suppress(OSError):
            self.logs.mkdir(mode=0o700, exist_ok=True)
            shutil.copyfile(log, self.logs / f"{operation}-{checkpoint}.log")
            for old in sorted(self.logs.iterdir(), key=lambda path: path.stat().st_mtime)[:-KEPT_LOGS]:
                old.unlink()
