"""All that one run is made of, as its shell drives it. Made by ``ckptrun.app.run``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptrun.capsule.helper import Helper
    from ckptrun.capsule.streams import Streams
    from ckptrun.criu.staging import Arena
    from ckptrun.supervisor.channel import Channel
    from ckptrun.supervisor.checkpointing import Checkpointer
    from ckptrun.supervisor.handover import Standing
    from ckptrun.supervisor.hooks import RunsHooks
    from ckptrun.supervisor.job import Job
    from ckptrun.supervisor.jobcalls import JobCalls
    from ckptrun.supervisor.jobstate import JobState
    from ckptrun.supervisor.ledger import Effects
    from ckptrun.supervisor.restoring import Restorer
    from ckptrun.supervisor.staged import LocalCopies
    from ckptrun.supervisor.vault import Vault
    from ckptrun.telemetry.events import EventLog
    from ckptrun.telemetry.speak import Speaker


@dataclass(frozen=True, slots=True)
class Parts:
    """What the shell drives."""

    job: Job
    helper: Helper
    streams: Streams
    checkpointer: Checkpointer
    restorer: Restorer
    copies: LocalCopies
    vault: Vault
    arena: Arena
    diary: EventLog
    speaker: Speaker
    channel: Channel
    hooks: RunsHooks
    effects: Effects
    state: JobState
    calls: JobCalls
    standing: Standing
