"""One job's history in a store, as a reader sees it, and how one becomes its writer. Called by app and supervisor."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptrun.core.model import RunState
from ckptrun.errors import CorruptError, PreconditionError
from ckptrun.store import lease, manifest, verifying
from ckptrun.store.api import Head, RunInfo
from ckptrun.store.backend import MissingError
from ckptrun.store.crypto import Kind
from ckptrun.store.fetching import Fetcher
from ckptrun.store.headfile import Found, HeadFile, Seen
from ckptrun.store.keys import make_format, open_seal, read_format
from ckptrun.store.opening import check_name
from ckptrun.store.probing import probe
from ckptrun.store.reading import StoredCheckpoint
from ckptrun.store.writer import Writer, interrupted
from ckptrun.store.writing import manifest_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from ckptrun.core.model import CheckpointRecord
    from ckptrun.store.api import CommandFacts, KeySource, Owner, VerifyReport
    from ckptrun.store.backend import Backend
    from ckptrun.store.crypto import Seal


@dataclass(frozen=True, slots=True)
class Access:
    """An opened lineage: what reading and writing it takes."""

    backend: Backend
    name: str
    seal: Seal
    headfile: HeadFile
    seen: Seen
    fetcher: Fetcher


class Lineage:
    """One lineage of a store. Cheap to make: nothing is read until it is asked for.

    Args:
        backend: of the store.
        name: letters, digits, ``._-``, at most 100, first a letter or digit.
        key: opens an encrypted lineage; None for a plain one.
        seen_path: local file that remembers the newest HEAD seen, so that an older copy put in its place is noticed.

    Raises:
        ConfigurationError: the name is not allowed.
    """

    def __init__(
        self, backend: Backend, name: str, key: KeySource | None, seen_path: Path | None = None
    ) -> None:
        self._backend = backend
        self._name = check_name(name)
        self._key = key
        self._seen_path = seen_path
        self._access: Access | None = None

    @property
    def where(self) -> str:
        """The lineage's address, for messages."""
        return self._backend.where(self._name)

    def exists(self) -> bool:
        """Say whether the store has this lineage; StoreError."""
        return read_format(self._backend, self._name) is not None

    def head(self) -> Head | None:
        """Return the newest HEAD, authenticated; None before the first writer.

        Raises:
            CorruptError: no generation of it is valid, or it is older than one seen before.
            WrongKeyError: the key does not open the lineage.
        """
        if self._access is None and not self.exists():
            return None
        found = self._read(self.access())
        return None if found is None else found.head

    def checkpoints(self) -> tuple[CheckpointRecord, ...]:
        """Return the committed checkpoints, newest first; raises as `head`."""
        head = self.head()
        return () if head is None else head.checkpoints

    def live(self) -> tuple[CheckpointRecord, ...]:
        """Return those that a run goes on from unasked, newest first: see `Head.live`; raises as `head`."""
        head = self.head()
        return () if head is None else head.live

    def load(self, record: CheckpointRecord) -> StoredCheckpoint:
        """Return a checkpoint with its verified manifest.

        Raises:
            CorruptError: the manifest is damaged, missing or another checkpoint's.
        """
        access = self.access()
        name = manifest_name(self._name, record)
        try:
            found = self._manifest(access, name)
        except MissingError:
            raise
        except CorruptError:
            try:  # what was damaged on the way is no reason to drop a checkpoint
                found = self._manifest(access, name)
            except CorruptError as error:
                raise CorruptError(f"{self._backend.where(name)} is damaged: {error.message}") from error
        if (found.record.id, found.record.seq) != (record.id, record.seq):
            raise CorruptError(f"{self._backend.where(name)} describes another checkpoint")
        return StoredCheckpoint.of(found, record, access.fetcher)

    def verify(self, record: CheckpointRecord, *, quick: bool) -> VerifyReport:
        """Read a checkpoint back; damage is reported, not raised.

        Args:
            record: which one.
            quick: manifest, cell tables and the packs' sizes only.

        Raises:
            StoreUnreachableError: the store does not answer.
        """
        try:
            stored = self.load(record)
        except CorruptError as error:
            return verifying.unreadable(error)
        return verifying.verify(stored, self.access().backend, self._name, quick=quick)

    def acquire(
        self,
        owner: Owner,
        *,
        take_over: bool,
        command: CommandFacts,
        gone: Collection[str] = (),
        wait: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.time,
    ) -> Writer:
        """Become the lineage's one writer; makes the lineage if there is none.

        Args:
            owner: this process.
            take_over: do not ask whether the present holder is alive.
            command: what a first run will execute.
            gone: see `lease.is_dead`.
            wait: sleeps so many seconds.
            clock: seconds since the epoch.

        Raises:
            HeldError: a live writer has it.
            StoreRefusedError: the store is read-only or ignores preconditions.
        """
        self._backend.prepare()
        probe(self._backend)
        found_format = read_format(self._backend, self._name)
        if found_format is None:
            make_format(self._backend, self._name, encrypted=self._key is not None)
        access = self.access(create=True)
        self._backend.sweep(self._name)
        while True:
            found = self._read(access)
            if found is not None and not (take_over or self._free(access, found, owner, gone, wait)):
                raise lease.held(self._name, self._backend.url, found.head)
            taken = self._take(access, found, owner, command, clock())
            if taken is not None:
                previous = interrupted(found.head.run) if found and found.head.run.started else None
                return Writer(self, taken, owner, previous, clock)
            take_over = False  # another process was faster: it is not the holder the user meant

    def access(self, *, create: bool = False) -> Access:
        """Return what reading and writing take; reads FORMAT and the key slots once. Used within the store.

        Raises:
            CorruptError: there is no lineage, or its FORMAT is damaged.
            WrongKeyError, ConfigurationError: the key does not fit.
        """
        if self._access is None:
            found = read_format(self._backend, self._name)
            if found is None:
                raise CorruptError(f"there is no lineage {self._name!r} in {self._backend.url}")
            fresh = create and next(self._backend.read(f"{self._name}/HEAD"), None) is None
            seal = open_seal(self._backend, self._name, found, self._key, create=fresh)
            self._access = Access(
                self._backend,
                self._name,
                seal,
                HeadFile(self._backend, self._name, seal),
                Seen(self._seen_path, found.uid),
                Fetcher(self._backend, self._name, seal),
            )
        return self._access

    def _manifest(self, access: Access, name: str) -> manifest.Manifest:
        return manifest.decode(access.seal.open(Kind.MANIFEST, name, self._backend.get(name)))

    def _read(self, access: Access) -> Found | None:
        floor = access.seen.newest
        found = access.headfile.read()
        access.seen.check(found.head if found else None, access.headfile.where, floor)
        return found

    def _free(
        self,
        access: Access,
        found: Found,
        owner: Owner,
        gone: Collection[str],
        wait: Callable[[float], object],
    ) -> bool:
        holder = found.head.owner
        if holder is None or lease.is_dead(holder, owner, gone):
            return True
        return lease.stands_still(found.version, access.headfile.version, wait) or self._released(access)

    def _released(self, access: Access) -> bool:
        found = access.headfile.read()
        return found is not None and found.head.owner is None

    def _take(
        self, access: Access, found: Found | None, owner: Owner, command: CommandFacts, now: float
    ) -> Found | None:
        """Write HEAD as its new owner; None if someone else was faster."""
        if found is None:
            if next(self._backend.names(f"{self._name}/manifests"), None) is not None:
                raise CorruptError(
                    f"{access.headfile.where} is gone, and there are manifests that it must have named",
                    hint="restore it from a backup of the store, or start anew under another --name",
                )
            run = RunInfo(RunState.INTERRUPTED, None, command, 0.0)
            head = Head(1, 0, None, 0.0, run)
        else:
            old = found.head
            head = replace(old, epoch=old.epoch + 1, run=interrupted(old.run), warnings=())
        hint = now + lease.LEASE_SECONDS
        head = replace(head, owner=owner, lease_until_hint=hint, commit=secrets.token_hex(8))
        try:
            taken = Found(head, access.headfile.write(head, found.version if found else None))
        except PreconditionError:
            now_there = access.headfile.read()
            if now_there is None or now_there.head.commit != head.commit:
                return None
            taken = now_there  # the answer to our own write was lost
        access.seen.check(taken.head, access.headfile.where, (0, 0))
        return taken
