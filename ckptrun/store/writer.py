"""The lineage's one writer: checkpoints in, HEAD forward. Made by `Lineage.acquire`; called by the supervisor.

Order is everything: packs, then the manifest, then HEAD. Only HEAD makes a checkpoint count, and it is replaced on
condition that nobody else did: a writer that was taken over finds out at its next write, whatever any clock says.
"""

from __future__ import annotations

import logging
import re
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptrun.core.model import CheckpointRecord, RunState
from ckptrun.errors import ConfigurationError, StoreError
from ckptrun.store import headchanges, lease
from ckptrun.store.api import Head, Prepared, RunInfo
from ckptrun.store.headqueue import HeadQueue
from ckptrun.store.kept import KeptContents
from ckptrun.store.knowledge import build_index, packs_of
from ckptrun.store.packing import Packer, PackNames
from ckptrun.store.writing import Writing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ckptrun.core.model import Snapshot, Source
    from ckptrun.core.retention import Keep
    from ckptrun.store.api import Owner
    from ckptrun.store.headfile import Found
    from ckptrun.store.index import ChunkIndex
    from ckptrun.store.lineage import Lineage

log = logging.getLogger("ckptrun.store")

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Writer:
    """The lineage's one writer. Thread-safe: changes of HEAD queue up, and so do uploads.

    Args:
        lineage: what it writes.
        found: the HEAD by which it took the lineage.
        owner: this process.
        previous: the run before it.
        clock: seconds since the epoch.

    Attributes:
        epoch: counts the writers of this lineage.
        previous: the run before this writer, RUNNING turned INTERRUPTED; None if there was none.
    """

    def __init__(
        self,
        lineage: Lineage,
        found: Found,
        owner: Owner,
        previous: RunInfo | None,
        clock: Callable[[], float],
    ) -> None:
        self.epoch = found.head.epoch
        self.previous = previous
        self._lineage = lineage
        self._access = lineage.access()
        self._clock = clock
        self._queue = HeadQueue(self._access.headfile, found, self._access.seen)
        self._names = PackNames(self.epoch, owner.session)
        self._put_lock = threading.Lock()
        self._next_seq = found.head.seq + 1
        self._index: ChunkIndex | None = None
        self._packs: dict[str, frozenset[str] | None] = {}

    def put(
        self,
        snapshot: Snapshot,
        *,
        frozen_seconds: float,
        progress: Callable[[int, int], None] | None = None,
        inexact: tuple[str, ...] = (),
    ) -> Prepared:
        """Store a checkpoint's bytes, without making it count.

        Args:
            snapshot: its sources are read once, and again only if a commit finds a tombstone.
            frozen_seconds: for the record.
            progress: is told bytes done and bytes in all, from this thread.
            inexact: files not captured exactly, for the record.

        Raises:
            StoreError: it could not be stored; the lineage is as before.
            FencedError: this writer was taken over; nothing more is uploaded.
        """
        if not _ID.fullmatch(snapshot.id):
            raise ConfigurationError(f"{snapshot.id!r} is not a checkpoint's id")
        with self._put_lock:
            head = self._queue.head()
            index = self._known(head)
            index.distrust(headchanges.unusable(head))
            record = CheckpointRecord(
                snapshot.id,
                self._next_seq,
                self.epoch,
                snapshot.trigger,
                snapshot.created,
                0.0,
                frozen_seconds,
                *(0.0, 0, 0, 0, 0),
                inexact=inexact,
                labels=dict(head.run.labels),
                metrics=dict(snapshot.metrics),
            )
            self._next_seq += 1
            access = self._access
            packer = Packer(access.backend, access.name, self._names, index)
            writing = Writing(access.backend, access.name, access.seal, index, packer, snapshot, progress)
            try:
                written = writing.run(record)
            except BaseException:
                packer.abandon()
                raise
        packs = frozenset(name for name, _ in written.manifest.packs)
        return Prepared(snapshot, written.manifest.record, written.name, packs, inexact)

    def commit(self, prepared: Prepared, *, keep: Keep) -> CheckpointRecord:
        """Make a checkpoint count, and apply retention.

        A state that was kept before goes: the checkpoint has the job's own.
        A pack the checkpoint refers to may have become a tombstone since `put`, when an earlier checkpoint was
        dropped: then what lies in it is stored anew first.

        Raises:
            FencedError: another writer has taken over.
            StoreError: it is not known to count.
        """
        return self._commit(
            prepared,
            lambda head, record: headchanges.with_checkpoint(
                self._renewed(head), record, keep, self._packs, self._clock()
            ),
        )

    def keep_state(self, prepared: Prepared) -> CheckpointRecord:
        """Make a state count that was stored like a checkpoint, without images; raises as `commit`."""
        return self._commit(
            prepared,
            lambda head, record: headchanges.with_state(
                self._renewed(head), record, self._packs, self._clock()
            ),
        )

    def _commit(
        self, prepared: Prepared, change: Callable[[Head, CheckpointRecord], Head]
    ) -> CheckpointRecord:
        while True:
            self._learn_packs(headchanges.referring(self._queue.head()))
            self._packs[prepared.record.id] = prepared.packs
            record = replace(prepared.record, committed=self._clock())
            packs = prepared.packs
            if self._queue.change(
                lambda head, p=packs, r=record: (
                    change(head, r) if p.isdisjoint(headchanges.unusable(head)) else None
                )  # type: ignore[misc]
            ):
                return record
            stale = prepared.manifest
            prepared = self.put(
                prepared.snapshot, frozen_seconds=record.frozen_seconds, inexact=prepared.inexact
            )
            self._forget(stale)

    def learn(self) -> None:
        """Read what the newest checkpoint consists of, once; `put` does so if nobody did. StoreError."""
        with self._put_lock:
            self._known(self._queue.head())

    def contents(self) -> Mapping[str, Source]:
        """Return the file contents, by key, that need not be stored again; empty before `learn` or `put`."""
        return {} if self._index is None else KeptContents(self._index, self._access.fetcher)

    def renew(self) -> None:
        """Show that this writer lives: at least every 5 s. FencedError, StoreError."""
        self._queue.change(self._renewed)

    def set_run(self, run: RunInfo, *, fresh: bool = False) -> None:
        """Record how the run stands; with ``fresh``, that it goes on from no checkpoint. FencedError, StoreError."""

        def change(head: Head) -> Head:
            kept = tuple(record.id for record in head.checkpoints)
            aside = kept if fresh else tuple(one for one in head.run.set_aside if one in kept)
            return replace(self._renewed(head), run=replace(run, set_aside=aside))

        self._queue.change(change)

    def set_aside(self, record_ids: Iterable[str]) -> None:
        """Have no run go on from checkpoints unasked; one may still be on its way. FencedError, StoreError."""
        ids = tuple(record_ids)
        self._queue.change(lambda head: headchanges.aside(self._renewed(head), (*head.run.set_aside, *ids)))

    def go_on_from(self, record_id: str) -> None:
        """Set aside what is newer than a checkpoint, and that one no more: the job is put back to it.

        Nothing is written where that changes nothing. FencedError, StoreError.
        """
        self._queue.change(lambda head: self._gone_back(head, record_id))

    def drop(self, record_ids: Iterable[str], reason: str) -> None:
        """Take checkpoints that turned out corrupt out of the lineage.

        What they refer to may be what is damaged: new checkpoints store it anew.

        Raises:
            FencedError, StoreError: as `renew`.
        """
        ids = frozenset(record_ids)
        head = self._queue.head()
        self._learn_packs(headchanges.referring(head))
        gone = [record for record in head.checkpoints if record.id in ids]
        if not gone:
            return
        for record in gone:
            log.warning("checkpoint %s of lineage %s is dropped: %s", record.id, self._access.name, reason)
        self._queue.change(
            lambda head: headchanges.without(head, ids, self._packs, self._clock(), distrust=True)
        )
        with self._put_lock:
            if self._index is not None:
                self._index.distrust(headchanges.unusable(self._queue.head()))
                if any(self._packs.get(record.id) is None for record in gone):
                    self._index.distrust(self._index.sizes)  # which packs it used is not known: trust none

    def close(self, run: RunInfo) -> None:
        """Record how the run ended and give the lease back; the writer is of no use afterwards."""
        self._queue.change(
            lambda head: replace(
                head, run=replace(run, set_aside=head.run.set_aside), owner=None, lease_until_hint=0.0
            )
        )
        self._queue.close()

    def release(self) -> None:
        """Give the lease back and leave the record of the last run alone."""
        self._queue.change(lambda head: replace(head, owner=None, lease_until_hint=0.0))
        self._queue.close()

    def _renewed(self, head: Head) -> Head:
        return replace(head, lease_until_hint=self._clock() + lease.LEASE_SECONDS)

    def stands_at(self, record_id: str) -> bool:
        """Whether `go_on_from` would change nothing, as is known without asking the store. FencedError."""
        return self._gone_back(self._queue.head(), record_id) is None

    def _gone_back(self, head: Head, record_id: str) -> Head | None:
        changed = headchanges.gone_back(head, record_id)
        return None if changed is None else self._renewed(changed)

    def _known(self, head: Head) -> ChunkIndex:
        if self._index is None:
            self._index = build_index(self._lineage, head)
        return self._index

    def _learn_packs(self, records: Iterable[CheckpointRecord]) -> None:
        for record in records:
            if record.id not in self._packs:
                self._packs[record.id] = packs_of(self._lineage, record)

    def _forget(self, manifest: str) -> None:
        try:
            self._access.backend.delete(manifest)
        except StoreError as error:
            log.info("%s stays behind: %s", manifest, error)


def interrupted(run: RunInfo) -> RunInfo:
    """Return the record of a run whose writer is gone."""
    return replace(run, state=RunState.INTERRUPTED) if run.state is RunState.RUNNING else run
