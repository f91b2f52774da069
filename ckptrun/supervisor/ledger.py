"""The effects of one run: the job's requests about them, restores, commits and the end. Rules are `ckptrun.effects`'.

Nothing is opened for a job that uses no effects: the ledger is, with the first request, or at a restore to a checkpoint
with a mark, or if there is one already. Requests are answered by one thread, undos and senders carried out by another.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptrun.core.events import Committed, CriticalEntered, CriticalLeft
from ckptrun.effects import worker
from ckptrun.effects.book import Book
from ckptrun.effects.desk import Desk, seconds_of
from ckptrun.effects.model import Mark
from ckptrun.effects.plan import Action
from ckptrun.effects.settling import carry_out, settle
from ckptrun.errors import CkptrunError, FencedError, LedgerError, LedgerLostError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ckptrun.effects.ledger import Ledger
    from ckptrun.effects.model import Entry
    from ckptrun.effects.plan import Step
    from ckptrun.effects.settling import Settled
    from ckptrun.effects.worker import Surroundings
    from ckptrun.supervisor.channel import Asked, Channel
    from ckptrun.supervisor.shell import Shell
    from ckptrun.supervisor.staged import LocalCopies

END_TRIES = 3
"""At the job's end, what fails is tried so often, a second and more apart."""
_ENTERS = frozenset({"begin", "defer"})
_LEAVES = frozenset({"end", "fail", "leave"})


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
    """

    lineage: str
    open: Callable[[], Ledger]
    there: Callable[[], bool]
    required: bool
    epoch: Callable[[], int]
    finished: bool | None
    surroundings: Surroundings


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
        self._settling = threading.Lock()
        self._book: Book | None = None
        self._desk: Desk
        self._alive = 0
        self._began: bool | None = wanted.finished
        self._owed: Callable[[Book], None] | None = None
        self._said = ""
        self._requests = _Hand("effects")
        self._works = _Hand("undos and senders")

    def attach(self, channel: Channel) -> None:
        """Answer the job's requests, and have checkpoints carry the mark."""
        channel.register("effect", self._asked)
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
            self._requests.do(self._quietly(self._begin))

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
        if book.lost(mark):
            self._lost(mark)
        self._tell(book.rewind(mark))

    def observe(self, event: object) -> None:
        """Take note of a commit: what it covers is settled, in the background."""
        if not isinstance(event, Committed):
            return
        staged = self._copies.get(event.id)
        value = staged.facts.channel.get("effects") if staged else None
        mark = Mark.from_json(value if isinstance(value, dict) else None)
        if mark.life and self._book is not None:
            self._works.do(self._quietly(lambda: self._settle(mark)))

    def finish(self, *, well: bool) -> None:
        """Settle everything, if the job has ended well. Waits for it; says what could not be done."""
        if not well:
            return
        with contextlib.suppress(LedgerError, FencedError):
            with self._gate:
                if self._book is None and not self._wanted.there():
                    return
            for left in range(END_TRIES, 0, -1):
                try:
                    failed = self._settle(None).failed
                except CkptrunError as error:
                    failed = {"the ledger": str(error)}
                if not failed:
                    break
                if left > 1:
                    time.sleep(END_TRIES - left + 1.0)
            for key, why in failed.items():
                self._note(f"at the end of the job, effect {key!r} is not settled: {why}")
            with self._gate:
                self._ready().close()

    def close(self) -> None:
        """Answer nothing any more."""
        self._requests.stop()
        self._works.stop()

    def _asked(self, asked: Asked) -> None:
        """Answer a request; in the channel's thread."""
        operation = asked.fields.get("op")
        if operation not in _ENTERS:
            self._requests.do(lambda: self._answer(asked, _section(asked) if operation in _LEAVES else ""))
            return
        try:
            seconds = seconds_of(asked.fields)
        except UsageError as error:
            asked.fail("usage", error.message, error.hint)
            return
        section, number = _section(asked), asked.incarnation

        def let_in(_: str | None, error: str | None) -> None:
            if error is None:
                self._requests.do(lambda: self._answer(asked, section))
            else:
                asked.fail("unavailable", error)

        def enter(now: float, waiter: int) -> CriticalEntered:
            return CriticalEntered(now, number, section, seconds, waiter)

        self._shell.enqueue(lambda: self._shell.ask(number, let_in, enter))

    def _answer(self, asked: Asked, section: str) -> None:
        """Answer a request whose section, if any, is open; it ends unless the job is to run its function now."""
        stays = False
        try:
            with self._gate:
                if asked.incarnation != self._alive:
                    return  # nobody hears the answer, and nothing of it may be begun
                self._ready()
                reply = self._desk.answer(self._signed(asked), asked.incarnation)
            stays = reply.get("act") == "run"
            asked.reply(**reply)
        except FencedError as error:
            asked.fail("fenced", error.message, error.hint)
        except LedgerError as error:
            stays = asked.fields.get("op") == "end"  # it is asked again
            asked.fail("ledger", error.message, error.hint)
        except UsageError as error:
            asked.fail("usage", error.message, error.hint)
        except Exception as error:  # noqa: BLE001 - whatever it is, the job hears of it and the thread goes on
            asked.fail("internal", f"internal error: {error!r}")
        finally:
            if section and not stays:
                left = CriticalLeft(time.monotonic(), asked.incarnation, section)
                self._shell.enqueue(lambda: self._shell.tell(left))

    def _signed(self, asked: Asked) -> Mapping[str, object]:
        """Return what is asked; what a process of another user than the job's has done for it is done as that user."""
        call = asked.fields.get("call")
        if not isinstance(call, dict):
            return asked.fields
        identity = self._wanted.surroundings.identity
        call = {name: value for name, value in call.items() if name != "user"}
        if asked.user[0] != (identity[0] if identity else os.getuid()):
            call["user"] = list(asked.user)
        return {**asked.fields, "call": call}

    def _opened(self) -> Book:
        """Return the book; with the gate held."""
        if self._book is None:
            ledger = self._wanted.open()
            book = Book(ledger, self._wanted.epoch())
            with contextlib.suppress(LedgerError):
                for warning in ledger.warnings():
                    self._note(warning)
            self._desk = Desk(book, self._wanted.lineage, lambda: self._shell.newest() or "", self._undo)
            self._book = book
        return self._book

    def _begin(self) -> None:
        with self._gate:
            self._ready()

    def _ready(self) -> Book:
        """Return the book once all that had to come first is done; with the gate held."""
        book = self._opened()
        if self._owed:
            self._owed(book)
            self._owed = None
        return book

    def _lost(self, mark: Mark) -> None:
        text = (
            f"the effect ledger lacks entries that the checkpoint counts on (it knows {mark.seq}): "
            "it is another one, or an old copy"
        )
        if self._wanted.required:
            raise LedgerLostError(
                text, hint="name the right one with --ledger, or leave out --require-ledger"
            )
        self._note(f"{text}; effects may be repeated, and none from before the checkpoint can be undone")

    def _tell(self, steps: Sequence[Step]) -> None:
        for step in steps:
            if step.action is Action.MISSING:
                self._note(f"the restored job counts on effect {step.entry.key!r}, which was undone since")
        if steps:
            counts = {action.value: 0 for action in Action}
            for step in steps:
                counts[step.action.value] += 1
            self._record("effects-rewound", **{name: count for name, count in counts.items() if count})

    def _settle(self, upto: Mark | None) -> Settled:
        with self._settling:
            with self._gate:
                book = self._ready()
            result = settle(book, upto, self._run)
        for key in result.undone:
            self._record("effect-undone", key=key)
        for key in result.sent:
            self._record("effect-sent", key=key)
        for key, why in result.failed.items():
            self._record("effect-failed", key=key, reason=why)
            if upto is not None:
                self._note(f"effect {key!r} could not be settled, the next checkpoint tries again: {why}")
        return result

    def _undo(self, step: Step) -> None:
        def work() -> None:
            with self._gate:
                book = self._opened()
            error = carry_out(book, step, self._run, asked=True)
            if error is not None:
                self._record("effect-failed" if error else "effect-undone", key=step.entry.key, reason=error)

        self._works.do(self._quietly(work))

    def _run(self, entry: Entry) -> str:
        return worker.run(entry, self._wanted.surroundings)

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


class _Hand:
    """A thread that does one thing after another; started with the first."""

    def __init__(self, name: str) -> None:
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._lock = threading.Lock()

    def do(self, work: Callable[[], None]) -> None:
        with self._lock:
            if self._thread.ident is None:
                self._thread.start()
        self._queue.put(work)

    def stop(self) -> None:
        self._queue.put(None)

    def _serve(self) -> None:
        while (work := self._queue.get()) is not None:
            work()


def _section(asked: Asked) -> str:
    token = asked.fields.get("token") if asked.fields.get("op") != "defer" else asked.fields.get("id")
    return f"effect {token}"[:200]
