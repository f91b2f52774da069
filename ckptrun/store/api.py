"""The words callers of the store use: owners, keys, heads, reports. Data only.

Called by app and supervisor through `ckptrun.store.repository`. It must not know how anything is stored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ckptrun.core.model import RunState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptrun.core.model import CheckpointRecord, Exit, Snapshot


def _own_pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Owner:
    """A writer, told from every other process there was or will be.

    Args:
        boot_id: the kernel's random boot id.
        pid: as its own PID namespace counts.
        start_time: of the process, in clock ticks since boot (``/proc/PID/stat``, field 22).
        host: for people.
        session: random, lower-case; part of the names of the packs it writes.
        pid_namespace: in which ``pid`` means something; two containers of one machine share a boot id.
    """

    boot_id: str
    pid: int
    start_time: int
    host: str
    session: str
    pid_namespace: str = field(default_factory=_own_pid_namespace)


@dataclass(frozen=True, slots=True)
class KeySource:
    """Where the secret that opens a lineage comes from: exactly one of a passphrase and a file.

    Args:
        passphrase: stretched with scrypt.
        key_file: at least 32 bytes of random content.
    """

    passphrase: str = field(default="", repr=False)
    key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class CommandFacts:
    """What is remembered of a command; ``files`` maps those it names to a digest of their content."""

    argv: tuple[str, ...]
    cwd: str
    digest: str
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunInfo:
    """How a run stands.

    Args:
        state: how.
        exit: whose code it ended with.
        command: what it runs.
        started: seconds since the epoch.
        ended: seconds since the epoch, once nothing is left to be done.
        labels: the user's.
        set_aside: ids of checkpoints that no run goes on from unasked; kept by the writer from run to run.
    """

    state: RunState
    exit: Exit | None
    command: CommandFacts
    started: float
    ended: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    set_aside: tuple[str, ...] = ()

    @property
    def ending(self) -> bool:
        """Whether the job has ended well, and what follows that (hooks, effects) has not been seen through."""
        return self.state is RunState.FINISHED and self.ended is None


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A pack nothing refers to since ``since`` (seconds since the epoch); deleted after a grace, never reused."""

    pack: str
    since: float


@dataclass(frozen=True, slots=True)
class Head:
    """The lineage's one mutable object.

    Args:
        epoch: counts the writers; grows with each take-over.
        seq: the highest checkpoint number ever committed.
        owner: who holds the lease; None once it was given back.
        lease_until_hint: for messages, seconds since the epoch; fencing never looks at clocks.
        run: the newest run; ``started`` is 0 before the first one began.
        checkpoints: the committed ones, newest first.
        tombstones: packs on their way out.
        suspect: packs of checkpoints found corrupt: new checkpoints never refer to them.
        commit: random name of this very write.
        warnings: what had to be worked around to read it; sentences for the user, never stored.
        state: the job's state as a run left it after its newest checkpoint; None: the newest checkpoint has it.
    """

    epoch: int
    seq: int
    owner: Owner | None
    lease_until_hint: float
    run: RunInfo
    checkpoints: tuple[CheckpointRecord, ...] = ()
    tombstones: tuple[Tombstone, ...] = ()
    suspect: tuple[str, ...] = ()
    commit: str = ""
    warnings: tuple[str, ...] = ()
    state: CheckpointRecord | None = None

    @property
    def live(self) -> tuple[CheckpointRecord, ...]:
        """The checkpoints that a run goes on from unasked, newest first: each is an ancestor of those before it."""
        aside = frozenset(self.run.set_aside)
        return tuple(record for record in self.checkpoints if record.id not in aside)


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What reading a checkpoint back found: bytes checked, and a sentence for each thing that is bad."""

    checked_bytes: int
    bad: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checkpoint that lies in the store and does not count yet.

    Args:
        snapshot: what it was made of; its sources must stay readable until the commit.
        record: what HEAD will say, but for the time of the commit.
        manifest: name of the manifest object.
        packs: every pack it refers to.
        inexact: names of files that were not captured exactly.
    """

    snapshot: Snapshot
    record: CheckpointRecord
    manifest: str
    packs: frozenset[str]
    inexact: tuple[str, ...] = ()
