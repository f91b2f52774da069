"""How a run begins: takes the lineage, and decides by the resume table whether to start anew or go on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ckptrun.app.identity import changed_files, this_owner
from ckptrun.app.lifelock import LifeLock
from ckptrun.app.stores import backend_of, key_source
from ckptrun.capsule.visit import here
from ckptrun.core.model import RunState
from ckptrun.core.plans import Candidate, Fresh, GoOn, Resume
from ckptrun.core.resume import EndOnly, Flags, FreshStart, LastRun, Situation, decide
from ckptrun.errors import (
    CkptrunError,
    NoCheckpointError,
    StoreFullError,
    StoreRefusedError,
    StoreUnreachableError,
    UsageError,
)
from ckptrun.journal import records_from_json
from ckptrun.store.lease import is_dead
from ckptrun.store.repository import Lineage
from ckptrun.supervisor.facts import Facts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ckptrun.capsule.visit import Place
    from ckptrun.core.model import CheckpointRecord
    from ckptrun.settings import RunSettings
    from ckptrun.store.repository import CommandFacts, Owner, Writer

FENCED_SECONDS = 15.0
"""How long a run that was taken over may take to notice (its next renewal) and to end."""
POLL_SECONDS = 0.1


class Beginning:
    """The first decisions of one run.

    Args:
        settings: the run's.
        command: what is remembered of its command.
        note: takes one sentence for the user.
        there: runs what looks at the job's files.
    """

    def __init__(
        self,
        settings: RunSettings,
        command: CommandFacts,
        note: Callable[[str], None],
        there: Place = here,
    ) -> None:
        self.settings = settings
        self.command = command
        self._note = note
        self._there = there
        self._lock: LifeLock | None = None
        self._finished = settings.run_dir / "finished"
        self.unusable = ""
        """Why the run begins without the store, if it does."""

    def mark(self, *, finished: bool) -> None:
        """Remember on this machine whether the last run was finished: told when the store cannot be asked."""
        if finished:
            self._finished.touch()
        else:
            self._finished.unlink(missing_ok=True)

    def open_store(self) -> tuple[Lineage, Writer | None]:
        """Return the lineage and the lease on it; no lease if the store cannot be used and need not be.

        Raises:
            HeldError, WrongKeyError, CorruptError: the lineage cannot be ours.
            StoreError: the store cannot be used, and must be.
        """
        settings = self.settings
        seen = settings.run_dir / "seen"
        lineage = Lineage(backend_of(settings.store), settings.name, key_source(settings.key), seen_path=seen)
        try:
            return lineage, self._acquire(lineage)
        except (StoreUnreachableError, StoreRefusedError, StoreFullError) as error:
            if settings.require_store:
                raise
            if seen.exists() and not self._finished.exists() and not settings.fresh:
                raise type(error)(
                    f"{error.message}; lineage {settings.name!r} may have checkpoints there to go on from",
                    hint="try again when the store is back, or start anew with --fresh",
                ) from error
            self.unusable = str(error)
            self._note(f"{error}; the job runs, its checkpoints stay in memory until the store can be used")
            return lineage, None

    def _acquire(self, lineage: Lineage) -> Writer:
        me = this_owner()
        head = lineage.head() if self.settings.take_over else None
        lock = self._lock = self._lock or LifeLock(self.settings.run_dir, me.boot_id)
        lock.enter(me.session)
        writer = lineage.acquire(me, take_over=self.settings.take_over, command=self.command, gone=lock.gone)
        if head is not None and head.owner is not None:
            self._wait_for_end(head.owner, me)
        return writer

    def _wait_for_end(self, other: Owner, me: Owner) -> None:
        """Wait for a run on this machine that was just fenced: until it finds that out, its job writes its files."""
        if (other.boot_id, other.pid_namespace) != (me.boot_id, me.pid_namespace) or is_dead(other, me):
            return
        self._note(f"waiting for process {other.pid}, from which the lineage was taken over, to stop its job")
        deadline = time.monotonic() + FENCED_SECONDS
        while not is_dead(other, me):
            if time.monotonic() > deadline:
                self._note(f"process {other.pid} still runs; its job may write the same files as this one")
                return
            time.sleep(POLL_SECONDS)

    def acquire_late(self, lineage: Lineage, check: Callable[[Lineage], None]) -> Writer:
        """Take the lineage after the job has begun anew; not if there was something to go on from.

        Args:
            lineage: to take.
            check: refuses it, because of the job's state, with a CkptrunError.

        Raises:
            StoreRefusedError: there was.
        """
        writer = self._acquire(lineage)
        previous = writer.previous
        unfinished = previous is not None and (previous.state is not RunState.FINISHED or previous.ending)
        if unfinished and lineage.live() and not self.settings.fresh:
            writer.release()
            raise StoreRefusedError(
                f"lineage {self.settings.name!r} has checkpoints of an unfinished run, and this run began without them",
                hint="stop this run and start it again to go on from them, or choose another --name",
            )
        try:
            check(lineage)
        except BaseException:
            writer.release()
            raise
        return writer

    def plan(self, lineage: Lineage, writer: Writer | None) -> tuple[Fresh | Resume | None, list[str]]:
        """Return how to begin, and what to tell the user about it; None: not at all, only its end is left to be done.

        Raises:
            ChoiceNeededError: the user must say.
            NoCheckpointError: the checkpoint asked for is not there.
        """
        settings = self.settings
        if writer is None:
            return Fresh(), []
        records, every = list(lineage.live()), lineage.checkpoints()
        previous = writer.previous
        last = None
        changed: tuple[str, ...] = ()
        if previous is not None:
            words = " ".join(previous.command.argv)
            ending = previous.ending and settings.at is None
            last = LastRun(previous.state, previous.exit, previous.command.digest, words, ending)
            if previous.command.digest == self.command.digest and records:
                then, written = previous.command.files, self._written(lineage)
                changed = self._there(lambda: changed_files(then, settings.cwd, written))
        if settings.at is not None:
            records = [record for record in every if record.id == settings.at]
            if not records:
                raise NoCheckpointError(f"lineage {settings.name!r} has no checkpoint {settings.at!r}")
        situation = Situation(settings.name, last, self.command.digest, changed, bool(records))
        decision = decide(situation, Flags(settings.resume or settings.at is not None, settings.fresh))
        notes = [decision.note] if decision.note else []
        if settings.at is None and not settings.fresh and last is not None:
            notes += _passed_over(settings.name, last, records, every)
        if isinstance(decision, EndOnly):
            return None, notes
        if isinstance(decision, FreshStart) or not records:
            if settings.at is not None:
                raise UsageError("--fresh and --at contradict each other")
            return Fresh(), notes
        return Resume(_newest_first(records)), notes

    def go_on(self, lineage: Lineage, writer: Writer | None) -> tuple[GoOn, list[str]]:
        """Return how to begin with a job that an earlier run has started: the user has decided then."""
        return GoOn(_newest_first(lineage.live()) if writer else ()), []

    def _written(self, lineage: Lineage) -> set[str]:
        """Return the files the job itself wrote, by the newest readable checkpoint."""
        for record in lineage.live():
            try:
                facts = Facts.from_json(lineage.load(record).facts)
                return {file.path for file in records_from_json(facts.journal)}
            except CkptrunError:
                continue
        return set()


def _newest_first(records: Iterable[CheckpointRecord]) -> tuple[Candidate, ...]:
    return tuple(Candidate(r.id, r.seq) for r in sorted(records, key=lambda record: -record.seq))


def _passed_over(
    name: str, last: LastRun, live: Sequence[CheckpointRecord], every: Sequence[CheckpointRecord]
) -> list[str]:
    """Return what to tell the user about newer checkpoints that are set aside, unless the last run ended well."""
    newest = max((record.seq for record in live), default=0)
    ids = [record.id for record in every if record.seq > newest]
    if not ids or last.state is RunState.FINISHED:
        return []
    some = f"checkpoint {ids[0]} was" if len(ids) == 1 else f"checkpoints {', '.join(ids)} were"
    hint = f"'ckptrun restore {name} --at ID' goes on from one all the same"
    return [f"{some} set aside by an earlier run and will not be used; {hint}"]
