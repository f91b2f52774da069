"""The run's side of the store: uploads one at a time, the lease's heartbeat, and a store that comes late.

A store that cannot be reached never stops the job: a run may begin without a writer, says so, and tries again with
every upload.
"""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ckptrun.core.events import CommitFailed, Committed, Fenced
from ckptrun.errors import CkptrunError, FencedError, StoreError, StoreUnreachableError
from ckptrun.supervisor.branches import Branches
from ckptrun.supervisor.recording import Closing, Recording

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

    from ckptrun.core.events import Event
    from ckptrun.core.model import CheckpointRecord, Snapshot, Source
    from ckptrun.store.repository import Keep, Lineage, RunInfo, StoredCheckpoint, Writer
    from ckptrun.supervisor.staged import Staged

RENEW_SECONDS = 5.0


class Vault:
    """The store as one run sees it.

    Args:
        lineage: to read from.
        writer: the lease, or None when the store could not be reached.
        connect: tries to get it; raises CkptrunError.
        keep: retention.
        post: takes events.
        note: takes one sentence for the user.
    """

    def __init__(
        self,
        lineage: Lineage,
        writer: Writer | None,
        connect: Callable[[], Writer],
        keep: Keep,
        post: Callable[[Event], None],
        note: Callable[[str], None],
    ) -> None:
        self._lineage = lineage
        self._writer = writer
        self._connect = connect
        self._keep = keep
        self._post = post
        self._note = note
        self._uploads = ThreadPoolExecutor(1, "upload")
        self._submitted: list[Future[None]] = []
        self._stop = threading.Event()
        self._renewal = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._out_of_reach = False
        self._run: RunInfo | None = None
        self.branches = Branches(lambda: self._writer)

    def hold(self) -> None:
        """Keep the lease alive from now on."""
        self._renewal.start()

    def start(self, run: RunInfo, *, fresh: bool) -> None:
        """Record that the run has begun, anew or from a checkpoint."""
        self._run = run
        if self._writer:
            self._writer.set_run(run, fresh=fresh)
            self._submit(self._learn)

    def give_back(self) -> None:
        """Leave the lineage as it was: the run does not begin. StoreError."""
        self._stop.set()
        if self._writer:
            self._writer.release()

    @property
    def epoch(self) -> int:
        """Which writer of the lineage this run is; 0 while the store is out of reach."""
        return self._writer.epoch if self._writer else 0

    def upload(self, staged: Staged) -> None:
        """Put a checkpoint into the store and commit it, in the background; posts how it went."""
        self._submit(lambda: self._upload(staged))

    def contents(self) -> Mapping[str, Source]:
        """Return the file contents, by key, that the store has already; never waits for it."""
        return self._writer.contents() if self._writer else {}

    def load(self, checkpoint: str) -> StoredCheckpoint:
        """Return a committed checkpoint; CkptrunError if it cannot be read."""
        return self._lineage.load(self.record(checkpoint))

    def record(self, checkpoint: str) -> CheckpointRecord:
        """Return what HEAD says about a checkpoint.

        Raises:
            StoreError: HEAD has it no more, or cannot be read.
        """
        for record in self._lineage.checkpoints():
            if record.id == checkpoint:
                return record
        raise StoreUnreachableError(f"checkpoint {checkpoint} is not in the store any more")

    def mark_bad(self, checkpoint: str, reason: str) -> None:
        """Take a corrupt checkpoint out of the lineage, in the background."""

        def work() -> None:
            try:
                if self._writer:
                    self._writer.drop([checkpoint], reason)
            except CkptrunError as error:
                self._note(f"corrupt checkpoint {checkpoint} stays listed: {error}")

        self._submit(work)

    def settle(self, run: RunInfo) -> bool:
        """Record that the run has ended well: from then on none goes on from its checkpoints. Says so when that fails.

        Args:
            run: the record, which does not say when it ended yet: that is for `close`.

        Returns:
            Whether nothing can be gone on with any more.
        """
        if self._writer is None:
            return True  # the store has nothing of this run
        writer = self._writer
        recording = Recording(lambda: writer.set_run(run))
        recording.start()
        recording.wait()
        for problem in recording.problems:
            self._note(problem)
        return not recording.problems

    def close(self, run: RunInfo, state: Callable[[], Snapshot | None] = lambda: None) -> bool:
        """Record how the run ended and give the lease back; says so when that fails. An upload is given up.

        Args:
            run: the record.
            state: returns the job's state if it is to be stored; called in another thread.

        Returns:
            Whether the state is in the store.
        """
        self._stop.set()
        self._uploads.shutdown(wait=False, cancel_futures=True)
        if self._writer is None:
            return state() is None
        writer = self._writer
        closing = Closing(writer, run, state, lambda: self.branches.record(writer))
        closing.start()
        closing.wait()
        for problem in closing.problems:
            self._note(problem)
        return closing.stored

    @property
    def busy(self) -> bool:
        """Whether an upload still runs."""
        return any(not future.done() for future in self._submitted)

    def _learn(self) -> None:
        """Learn what the store has before the first checkpoint asks: a long log is then not read again."""
        if self._writer:
            with contextlib.suppress(CkptrunError):  # the upload will say it
                self._writer.learn()

    def _submit(self, work: Callable[[], None]) -> None:
        self._submitted = [future for future in self._submitted if not future.done()]
        self._submitted.append(self._uploads.submit(work))

    def _upload(self, staged: Staged) -> None:
        started = time.monotonic()
        checkpoint = staged.snapshot.id
        try:
            writer = self._connected()
            before = (
                {record.id for record in self._lineage.checkpoints()} if self._lineage.exists() else set()
            )
            self.branches.record(writer)
            prepared = writer.put(
                staged.snapshot,
                frozen_seconds=staged.frozen_seconds,
                inexact=staged.inexact,
                progress=self._go_on,
            )
            record = writer.commit(prepared, keep=self._keep)
            left = {record.id for record in self._lineage.checkpoints()}
        except FencedError as error:
            self._post(Fenced(time.monotonic(), str(error)))
        except CkptrunError as error:
            self._post(CommitFailed(time.monotonic(), checkpoint, str(error), transient=True))
        except Exception as error:  # noqa: BLE001 - whatever it is, the job runs on and the upload is tried again
            self._post(CommitFailed(time.monotonic(), checkpoint, repr(error), transient=True))
        else:
            now = time.monotonic()
            expired, kept = tuple(sorted(before - left)), tuple(sorted(left))
            self._post(Committed(now, checkpoint, record.seq, now - started, expired, kept))

    def _go_on(self, _done: int, _total: int) -> None:
        """Give an upload up that the end of the run does not wait for: the job's state may have to be stored."""
        if self._stop.is_set():
            raise StoreError("the run is over")

    def _connected(self) -> Writer:
        if self._writer is None:
            self._writer = self._connect()
            self._note("the store can be reached now")
            if self._run:
                self._writer.set_run(self._run, fresh=True)  # a run that could not ask has begun anew
        return self._writer

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_SECONDS):
            if self._writer is None:
                continue
            try:
                self.branches.record(self._writer)
                self._writer.renew()
            except FencedError as error:
                self._post(Fenced(time.monotonic(), str(error)))
                return
            except CkptrunError as error:
                if not self._out_of_reach:
                    self._note(f"the store cannot be reached, the job runs on: {error}")
                self._out_of_reach = True
            else:
                if self._out_of_reach:
                    self._note("the store can be reached again")
                self._out_of_reach = False
