"""What a run and a query are told to do, as frozen data: every value parsed, every default applied.

`ckptrun.settings.resolve` makes these from the command line, the environment and ``ckptrun.toml``; ``app``
and ``supervisor`` read them. Nothing here reads anything from outside.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ckptrun.core.config import Interval, RestartPolicy, TcpPolicy
from ckptrun.settings.names import run_directory, store_directory

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ckptrun.settings.pod import Pod

GIB = 1 << 30


class KeyKind(enum.StrEnum):
    """Where the secret that opens a lineage comes from."""

    NONE = "none"
    PASSPHRASE = "passphrase"  # noqa: S105 -- the kind of key, no secret
    FILE = "file"


@dataclass(frozen=True, slots=True)
class KeyChoice:
    """The key of a lineage: none, a passphrase, or a file. The passphrase never shows in a repr."""

    kind: KeyKind = KeyKind.NONE
    passphrase: str = field(default="", repr=False)
    path: Path | None = None


class LogFormat(enum.StrEnum):
    """How ckptrun speaks on stderr."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Which store, and how it is opened.

    Args:
        url: ``file:///abs/path`` or ``s3://bucket/prefix``.
        endpoint: URL of an S3-compatible server; None means the usual AWS one.
        key: what encrypts and authenticates the lineages.
        no_encryption: the user said by name that an object store may hold plain bytes.
        state_dir: the user's own directory of ckptrun, where live runs are found.
    """

    url: str
    endpoint: str | None
    key: KeyChoice
    no_encryption: bool
    state_dir: Path

    def run_dir(self, name: str) -> Path:
        """Return where the live run of lineage ``name`` keeps its control socket and its events."""
        return run_directory(self.state_dir, self.url, name)


@dataclass(frozen=True, slots=True)
class HookSettings:
    """What was said about hooks; what it means is found out by `ckptrun.hooking.discovery`.

    Args:
        specs: as given with ``--hook``.
        tables: options by SPEC, from the file.
        folder: ``hooks.d`` beside the file; None if there is none.
        where: the directory that paths are relative to: where ckptrun was started, also when a job runs elsewhere.
        environ: ckptrun's environment, where values ``$NAME`` come from.
    """

    specs: tuple[str, ...] = ()
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    folder: Path | None = None
    where: Path | None = None
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __bool__(self) -> bool:
        return bool(self.specs or self.tables or self.folder)


@dataclass(frozen=True, slots=True)
class RunSettings:
    """One run: the command and everything that was said about it. Sizes in bytes, durations in seconds.

    Args:
        command: program and arguments, not empty.
        name: the lineage.
        cwd: where the job starts; absolute.
        store_url: see `StoreSettings.url`.
        state_dir: see `StoreSettings.state_dir`.
        environment: what the job's environment is, secrets of ckptrun taken out.
        withheld: names of variables taken out of it that the job might miss (store credentials).
        portable_cpu: the x86-64 level that the environment holds the job's libraries to; empty for none.
        uncapped: names of variables that would do so and that the user has set otherwise.
        interval: seconds between checkpoints, ``"auto"``, or None for none by time.
        keep_last: how many of the newest checkpoints are kept.
        preserve: absolute paths that are rolled back as a whole.
        journal_limit: bytes of job-written files copied per checkpoint.
        grace: on SIGTERM, seconds for a last checkpoint.
        max_freeze: a dump that stops the job longer is given up.
        staging: bytes of staging, 0 to stream without it, or ``"auto"``.
        resume: go on although the last run failed or a file changed.
        fresh: start anew although there is something to resume.
        take_over: do not wait for another writer's lease.
        require_store: refuse to run while the store cannot be reached.
        tcp: what becomes of open TCP connections at a restore.
        user: whom the job runs as, as written: a name or a number, and a group after a colon; empty for the usual.
        hooks: see `HookSettings`.
        ledger: URL of the effect ledger; empty for a file in the run's directory.
        require_ledger: refuse to restore where the ledger lacks what the checkpoint counts on.
        at: restore this checkpoint first (``ckptrun restore --at``); None takes the newest good one.
        verbosity: below 0 quiet, 0 normal, above 0 more.
        pod: the pod this is; None outside Kubernetes.
    """

    command: tuple[str, ...]
    name: str
    cwd: Path
    store_url: str
    state_dir: Path
    s3_endpoint_url: str | None = None
    key: KeyChoice = field(default_factory=KeyChoice)
    no_encryption: bool = False
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    withheld: tuple[str, ...] = ()
    portable_cpu: str = ""
    uncapped: tuple[str, ...] = ()
    interval: Interval = "auto"
    keep_last: int = 3
    preserve: tuple[Path, ...] = ()
    journal_limit: int = GIB
    restart: RestartPolicy = RestartPolicy.ON_FAILURE
    max_restarts: int = 100
    grace: float = 30.0
    max_freeze: float = 60.0
    staging: int | Literal["auto"] = "auto"
    resume: bool = False
    fresh: bool = False
    take_over: bool = False
    require_store: bool = False
    allow_io_uring: bool = False
    private_tmp: bool = True
    tcp: TcpPolicy = TcpPolicy.AUTO
    user: str = ""
    forward_usr1: bool = False
    log_format: LogFormat = LogFormat.TEXT
    labels: Mapping[str, str] = field(default_factory=dict)
    hooks: HookSettings = field(default_factory=HookSettings)
    ledger: str = ""
    require_ledger: bool = False
    at: str | None = None
    verbosity: int = 0
    pod: Pod | None = None

    @property
    def store(self) -> StoreSettings:
        """The part of the settings that the other commands have too."""
        return StoreSettings(
            self.store_url, self.s3_endpoint_url, self.key, self.no_encryption, self.state_dir
        )

    @property
    def store_directory(self) -> Path | None:
        """The store's directory; None if it is a bucket."""
        return store_directory(self.store_url)

    @property
    def run_dir(self) -> Path:
        """The directory of this run on this machine: control socket, events, staging."""
        return run_directory(self.state_dir, self.store_url, self.name)

    @property
    def quiet(self) -> bool:
        """Say only what went wrong."""
        return self.verbosity < 0

    @property
    def verbose(self) -> bool:
        """Say what is done, step by step."""
        return self.verbosity > 0
