"""The effects of one run: the job's requests about them, restores, commits and the end. Rules are `ckptrun.effects`'.

Nothing is opened for a job that uses no effects: the ledger is, with the first request, or at a restore to a checkpoint
with a mark, or if there is one already. Requests (`effect_requests`) are answered by one thread, undos and senders
carried out (`settlement`) by another.
"""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptrun.core.events import Committed
from ckptrun.effects.book import Book
from ckptrun.effects.desk import Desk
from ckptrun.effects.model import Mark
from ckptrun.effects.plan import Action
from ckptrun.errors import CkptrunError, FencedError, LedgerError, LedgerLostError
from ckptrun.supervisor.effect_requests import Requests
from ckptrun.supervisor.messages import Messages
from ckptrun.supervisor.settlement import Settlement

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ckptrun.effects.ledger import Ledger
    from ckptrun.effects.plan import Step
    from ckptrun.effects.worker import Surroundings
    from ckptrun.supervisor.channel import Channel
    from ckptrun.supervisor.shell import Shell
    from ckptrun.supervisor.staged import LocalCopies


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the run wants of its ledger.

    Args:
        lineage: whose effects.
        open: returns the ledger; nothing is connected to by that. Raises CkptrunError.
        there: whether there is one already, or the user has named one.
        required: refuse to restore where it lacks what the checkpoint counts on.
        epoch: returns the epoch of the lineage's writer; 0 if it is not known.
        finished: whether the run before ended well; None if that is not known.
        surroundings: what workers get.
        takers: whether a hook takes what is deferred without a sender.
        name: of the ledger, for people.
    """

    lineage: str
    open: Callable[[], Ledger]
    there: Callable[[], bool]
    required: bool
    epoch: Callable[[], int]
    finished: bool | None
    surroundings: Surroundings
    takers: bool = False
    name: str = ""


class Effects:
    """The effects of one run.

    Args:
        wanted: see `Wanted`.
        shell: carries critical sections out.
        copies: the checkpoints in local memory, for their marks.
        note: takes sentences for the user.
        record: takes events for the diary.
    """

    def __init__(
        self,
        wanted: Wanted,
        shell: Shell,
        copies: LocalCopies,
        note: Callable[[str], None],
        record: Callable[..., None],
    ) -> None:
        self._wanted = wanted
        self._shell = shell
        self._copies = copies
        self._note = note
        self._record = record
        self._gate = threading.RLock()
        self._book: Book | None = None
        self._desk: Desk
        self._alive = 0
        self._began: bool | None = wanted.finished
        self._owed: Callable[[Book], None] | None = None
        self._said = ""
        self._lost_of: set[str] = set()
        identity = wanted.surroundings.identity
        self._requests = Requests(shell, identity[0] if identity else os.getuid(), self._answer)
        self._settlement = Settlement(self._ready_now, wanted.surroundings, self._quietly, note, record)
        self.messages = Messages(wanted.lineage, self._if_open, self._quietly, record)
        """For the hooks of post-commit."""
        self._lonely = not wanted.takers

    def attach(self, channel: Channel) -> None:
        """Answer the job's requests, and have checkpoints carry the mark."""
        channel.register("effect", self._requests.asked)
        channel.remember("effects", lambda: self.mark().to_json(), lambda _value: None)

    def mark(self) -> Mark:
        """Return what a dump that is in flight covers."""
        with self._gate:
            if self._book is None or self._owed:
                return Mark(owed=self._owed is not None and self._wanted.there())
            return self._book.mark()

    def fresh(self, incarnation: int) -> None:
        """Take note that the job is started anew; any thread, does not wait."""
        finished, self._began = self._began, False

        def owed(book: Book) -> None:
            self._tell(book.fresh(finished=finished))

        with self._gate:
            self._alive = incarnation
            self._owed = owed
            there = self._wanted.there()
        if there:
            self._requests.do(self._quietly(self._ready_now))

    def restoring(self, incarnation: int, told: Mapping[str, object]) -> None:
        """Reconcile the ledger with the checkpoint that is being restored.

        Args:
            incarnation: the one to be.
            told: what its facts say of the job; see `Channel.facts`.

        Raises:
            LedgerError: the ledger is out of reach, or lacks what the checkpoint counts on and must not.
            FencedError: another run has it.
        """
        value = told.get("effects")
        mark = Mark.from_json(value if isinstance(value, dict) else None)
        with self._gate:
            self._alive = incarnation
            self._began, before = False, self._owed
            if mark.life or mark.seq or before is None:
                self._owed = lambda book: self._rewind(book, mark)
            # else this memory has done nothing since a fresh start that the ledger is still to be told of
            try:
                if self._book or mark.seq or self._wanted.there():
                    self._ready()
            except CkptrunError:
                self._owed = before  # another checkpoint may be restored instead
                raise

    def _rewind(self, book: Book, mark: Mark) -> None:
        if why := book.lacks(mark):
            self._lost(mark, why)
        self._tell(book.rewind(mark))

    def observe(self, event: object) -> None:
        """Take note of a commit: what it covers is settled, in the background."""
        if not isinstance(event, Committed):
            return
        staged = self._copies.get(event.id)
        value = staged.facts.channel.get("effects") if staged else None
        mark = Mark.from_json(value if isinstance(value, dict) else None)
        if mark.life and self._book is not None:
            self.messages.cover(mark)
            self._settlement.commit(mark)

    def finish(self, *, well: bool, hand_over: Callable[[], None] = lambda: None) -> None:
        """Settle everything, if the job has ended well. Waits for it; says what could not be done.

        Args:
            well: whether it has.
            hand_over: has the hooks that take messages run.
        """
        if not well:
            return
        with contextlib.suppress(LedgerError, FencedError):
            with self._gate:
                if self._book is None and not self._wanted.there():
                    return
            self.messages.cover(None)
            self._settlement.finish(self.messages, hand_over if self._wanted.takers else None)
            self._ready_now().close()

    def close(self) -> None:
        """Answer nothing any more."""
        self._requests.stop()
        self._settlement.stop()

    def _answer(self, fields: Mapping[str, object], incarnation: int) -> dict[str, Any] | None:
        with self._gate:
            if incarnation != self._alive:
                return None  # nothing of it may be begun
            self._ready()
            reply = self._desk.answer(fields, incarnation)
        if self._lonely and reply.get("queued") and not reply.get("sender"):
            self._lonely = False
            self._note(
                f"message {fields.get('key')!r} has no sender and waits for a hook that takes messages, of which this "
                "run has none: --hook 'NAME?messages=yes'"
            )
        return reply

    def _opened(self) -> Book:
        """Return the book; with the gate held."""
        if self._book is None:
            ledger = self._wanted.open()
            book = Book(ledger, self._wanted.epoch())
            with contextlib.suppress(LedgerError):
                for warning in ledger.warnings():
                    self._note(warning)
            self._desk = Desk(
                book, self._wanted.lineage, lambda: self._shell.newest() or "", self._settlement.undo
            )
            self._book = book
        return self._book

    def _if_open(self) -> Book | None:
        with self._gate:
            return self._ready() if self._book else None

    def _ready_now(self) -> Book:
        with self._gate:
            return self._ready()

    def _ready(self) -> Book:
        """Return the book once all that had to come first is done; with the gate held."""
        book = self._opened()
        if self._owed:
            self._owed(book)
            self._owed = None
        return book

    def _lost(self, mark: Mark, why: str) -> None:
        name = f"the effect ledger {self._wanted.name}".rstrip()
        text = f"{name} is not the one that the checkpoint counts on: {why}"
        if self._wanted.required:
            raise LedgerLostError(
                text,
                hint="put the newest one back, name it with --ledger, or leave out --require-ledger "
                "and have effects repeated",
            )
        if mark.claim not in self._lost_of:
            self._note(
                f"{text}; effects may be repeated, and those that it lacks are never undone. If the newest one is "
                "still somewhere: stop this run, put it back and restore the same checkpoint again"
            )
        self._lost_of.add(mark.claim)

    def _tell(self, steps: Sequence[Step]) -> None:
        for step in steps:
            if step.action is Action.MISSING:
                self._note(f"the restored job counts on effect {step.entry.key!r}, which was undone since")
        if steps:
            counts = {action.value: 0 for action in Action}
            for step in steps:
                counts[step.action.value] += 1
            self._record("effects-rewound", **{name: count for name, count in counts.items() if count})

    def _quietly(self, work: Callable[[], object]) -> Callable[[], None]:
        """Return `work`, made to say why it failed, once for each reason: it is tried again later."""

        def do() -> None:
            try:
                work()
                self._said = ""
            except Exception as error:  # noqa: BLE001 - the thread must go on, and the next commit tries again
                text = str(error) if isinstance(error, CkptrunError) else f"internal error: {error!r}"
                if self._said != text:
                    self._note(text)
                self._said = text

        return do
