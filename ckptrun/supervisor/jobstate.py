"""The job's state in one run: its requests, checkpoints, restores, and the end.

What a state is, `ckptrun.appstate` knows; docs/design/state.md says how it lives. Nothing is written for a job that
uses none.
"""

from __future__ import annotations

import functools
import secrets
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from ckptrun.appstate.batch import UnknownUploadError
from ckptrun.appstate.compacting import LEAST_GARBAGE, compact, wasteful
from ckptrun.appstate.desk import Desk
from ckptrun.appstate.log import Log
from ckptrun.appstate.mark import EMPTY, Mark, stored_bytes
from ckptrun.core.events import Committed
from ckptrun.core.model import Snapshot, Trigger
from ckptrun.errors import (
    ConfigurationError,
    CorruptError,
    RestoreError,
    StoreError,
    StoreRefusedError,
    StoreUnreachableError,
    UsageError,
)
from ckptrun.job._state_batch import STATE_BYTES
from ckptrun.supervisor.keptlog import KeptLog
from ckptrun.supervisor.storedstate import FACT, newest_mark, records, stored

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ckptrun.appstate.mark import Frozen
    from ckptrun.core.events import Event
    from ckptrun.core.model import Json, Source
    from ckptrun.store.repository import Lineage
    from ckptrun.supervisor.channel import Asked, Channel
    from ckptrun.supervisor.staged import LocalCopies


class _GoneError(Exception):
    """A request of an incarnation that has ended."""


class JobState:
    """The state of one run's job.

    Args:
        folder: ckptrun's own, for this lineage.
        copies: the checkpoints in local memory, for their marks.
        note: takes sentences for the user.
        room: bytes that all entries may count.
    """

    def __init__(
        self, folder: Path, copies: LocalCopies, note: Callable[[str], None], room: int = STATE_BYTES
    ) -> None:
        self._log = Log(folder, room)
        self._folder = folder
        self._copies = copies
        self._note = note
        self._desk = Desk(self._log)
        self._alive = 0
        self._committed: Mark | None = EMPTY
        """The newest state in the store; None: not known."""
        self._newest = ""
        self._kept = KeptLog(self._log)
        self._compacting = False
        self._not_before = 0

    def attach(self, channel: Channel) -> None:
        """Answer the job's requests."""
        channel.register("state", self._asked, repeatable=True)

    def begin(self, lineage: Lineage | None, *, fresh: bool) -> None:
        """Have the state there that the job is to find; before it starts.

        Args:
            lineage: to read from; None while the store is out of reach.
            fresh: the job is started anew: it finds the newest state there is. Else a restore will bring its own.

        Raises:
            StoreError: the state cannot be read now.
        """
        base = self._kept.adopt()
        if lineage is None:
            if base is None and self._kept.elsewhere:
                raise StoreUnreachableError(
                    "the job's state lies in the store, which cannot be reached",
                    hint="try again when the store is back, or choose another --name",
                )
            self._committed = base or EMPTY
        elif fresh:
            self._take_newest(lineage, base)
        else:
            self._committed = None
            self._newest = next((record.id for record in records(lineage)), "")
        with suppress(OSError):
            self._log.sweep()
        self._kept.note(self._committed)

    def fits(self, lineage: Lineage) -> None:
        """See that a store that is found late has no state that this run's job should have had.

        Raises:
            StoreRefusedError: it has.
        """
        newest = newest_mark(lineage)
        if newest not in {EMPTY, self._committed}:
            raise StoreRefusedError(
                "the lineage has a state of its job there, and this run began without it",
                hint="stop this run and start it again to go on with that, or choose another --name",
            )

    def fresh(self, incarnation: int) -> None:
        """Take note that the job is started anew: it goes on with the state that is there."""
        with self._log.lock:
            self._alive = incarnation
            self._desk.forget()

    def restoring(self, incarnation: int, checkpoint: str, told: object, files: Mapping[str, Source]) -> None:
        """Go back to the state of a checkpoint.

        Args:
            incarnation: the one to be.
            checkpoint: its id.
            told: what its facts say of the state.
            files: its contents.

        Raises:
            CorruptError: it is damaged, or not there.
            StoreFullError: there is no room for it here.
            StoreError, RestoreError: it cannot be read, or written here.
        """
        self._alive = incarnation  # before the lock: what still comes from the last one does not wait for it
        mark = Mark.from_json(told)
        with self._log.lock:
            self._desk.forget()
            try:
                self._log.go_back(mark, lambda: stored_bytes(mark, files))
            except OSError as error:
                raise RestoreError(f"the job's state cannot be kept in {self._folder}: {error}") from error
        if self._committed is None and checkpoint == self._newest:
            self._committed = mark
        self._kept.note(self._committed)

    def freeze(self) -> Frozen:
        """Return the state as it is now, for a checkpoint whose job is stopped."""
        return self._log.freeze()

    def observe(self, event: Event) -> None:
        """Take note of a commit: which state the store has."""
        if isinstance(event, Committed):
            staged = self._copies.get(event.id)
            self._committed = Mark.from_json(staged.facts.state) if staged else None
            self._kept.note(self._committed)

    def end(self, lineage: Lineage) -> Snapshot | None:
        """Return the state, for the store, if it is not there yet; the job has ended."""
        with self._log.lock:
            self._alive = 0
            self._desk.forget()
        frozen = self._log.freeze()
        if self._committed is None:
            with suppress(StoreError):
                self._committed = newest_mark(lineage)
        if frozen.mark == self._committed:
            return None
        facts: dict[str, Json] = {FACT: frozen.mark.to_json()}
        name = f"state-{secrets.token_hex(4)}"
        return Snapshot(name, Trigger.EXIT, time.time(), (), frozen.contents, facts)

    def close(self, *, stored: bool) -> None:
        """Leave what the store has not to the next run on this machine; of what it has, only that there is something.

        The log is not encrypted, and the store may be.
        """
        mark = self._log.mark()
        if stored or mark == EMPTY:
            self._kept.remove(mark)
            return
        try:
            self._log.sync()
            self._kept.note(self._committed, synced=True)
        except OSError as error:
            self._note(f"what the job has put into its state is lost: {error}")
        else:
            self._note("the job's state is not in the store; the next run on this machine goes on with it")

    def _asked(self, asked: Asked) -> None:
        """Answer a request; in the channel's thread."""
        try:
            self._check(asked)  # before the lock: a restore holds it
            with self._log.lock:
                self._check(asked)
                reply = self._desk.answer(asked.fields)
        except _GoneError:
            asked.fail("state", "the job has been put back since")
        except UsageError as error:
            asked.fail("usage", error.message, error.hint)
        except UnknownUploadError:
            asked.fail("state-upload", "ckptrun does not know the parts that came before")
        except OSError as error:
            asked.fail(
                "state",
                f"ckptrun cannot keep the job's state in {self._folder}: {error.strerror}",
                "make room there, or set XDG_STATE_HOME to another place",
            )
        else:
            asked.reply(**reply)
            self._kept.note(self._committed)
            self._tidy()

    def _check(self, asked: Asked) -> None:
        """See that a request is not of memory that has gone: the state has gone back, or is about to."""
        if asked.incarnation != self._alive:
            raise _GoneError

    def _tidy(self) -> None:
        """Make the log smaller, in the background, if most of it is garbage."""
        if self._compacting or self._log.size < self._not_before or not wasteful(self._log):
            return
        self._compacting = True

        def work() -> None:
            try:
                compact(self._log)
                self._kept.note(self._committed)
            except OSError:  # no room, most likely: the log goes on as it is
                self._not_before = self._log.size + LEAST_GARBAGE
            finally:
                self._compacting = False

        threading.Thread(target=work, name="compact state", daemon=True).start()

    def _take_newest(self, lineage: Lineage, base: Mark | None) -> None:
        """Become the newest state in the store, or what an earlier run on this machine has made of it."""
        lost = base is not None and self._log.mark() != base
        for number, record in enumerate((*records(lineage), None)):
            try:
                mark, files = stored(lineage, record)
                if number == 0 and mark == base:
                    lost = False
                else:
                    self._log.go_back(mark, functools.partial(stored_bytes, mark, files))
            except CorruptError as error:
                self._note(f"the job's state cannot be read, an older one is taken: {error}")
                continue
            except OSError as error:
                raise ConfigurationError(
                    f"the job's state cannot be kept in {self._folder}: {error.strerror}",
                    hint="set XDG_STATE_HOME to a folder that can be written",
                ) from error
            self._committed = None if number and record else mark
            break
        if lost:
            self._note(
                "what a run on this machine could not store of the job's state is dropped: there is a newer one"
            )
