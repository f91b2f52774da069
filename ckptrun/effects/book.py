"""The rules of the effect ledger over whatever keeps its entries: what a job may begin, end and queue, and rewinding.

One `Book` for each run that uses effects; called by ``ckptrun.supervisor.ledger`` for the job's requests. What is done
behind its back is `works`'. Any thread. It knows of no processes and no sockets.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptrun.effects import identity, plan
from ckptrun.effects.calls import Begun, Call, Do, check_json, check_key
from ckptrun.effects.keeper import Keeper
from ckptrun.effects.model import Entry, Kind, Mark, State
from ckptrun.effects.plan import Action
from ckptrun.effects.works import Works
from ckptrun.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptrun.core.model import Json
    from ckptrun.effects.ledger import Ledger
    from ckptrun.effects.plan import Step


class Book:
    """The effects of one lineage, as one run keeps them.

    Args:
        ledger: where they are kept.
        epoch: of the lineage's writer; 0 if it is not known.
        clock: seconds, monotonic.
        wall: seconds since the epoch.

    Raises:
        FencedError: a later epoch has the ledger. Every method that writes raises it, too.
        LedgerUnavailableError: it is out of reach. So does every method.
    """

    def __init__(
        self,
        ledger: Ledger,
        epoch: int,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._keeper = Keeper(ledger, epoch)
        self._clock = clock
        self._wall = wall
        self._lock = threading.RLock()
        self._open: dict[str, tuple[str, float]] = {}  # token, and until when it is believed to run
        self.works = Works(self._keeper, self._lock)
        """What is done behind the job's back."""

    @property
    def life(self) -> int:
        """The present life; see `Head`."""
        return self._keeper.head.life

    def mark(self) -> Mark:
        """Return what a dump that begins now covers."""
        with self._lock:
            keeper, spanned = self._keeper, tuple(sorted(self._open))
            first = keeper.claims[0].name
            return Mark(keeper.written, keeper.head.life, spanned, False, first, keeper.claim)

    def fresh(self, *, finished: bool | None = None) -> list[Step]:
        """Take note that the job starts anew; see `rewind`.

        Args:
            finished: whether it had ended well before: this is a new life then. None if nobody knows but the ledger.
        """
        with self._lock:
            closed = self._keeper.head.closed if finished is None else finished
            if self._keeper.head.life and not closed:
                return self.rewind(Mark(self._keeper.head.life, self._keeper.head.life))
            self._forget()
            seq = self._keeper.next()
            self._keeper.write(life=seq, closed=False)
            return []

    def rewind(self, mark: Mark) -> list[Step]:
        """Go back to what a checkpoint with ``mark`` covers, in one transaction; return the plan that was followed.

        It can be repeated, and begun again after it was interrupted anywhere.
        """
        with self._lock:
            life = mark.life or self._keeper.head.life
            if mark.owed or not life:
                return self.fresh()
            self._forget()
            mark = replace(mark, seq=max(mark.seq, life), life=life)
            found = {(entry.life, entry.key): entry for entry in self._keeper.since(mark.seq)}
            found |= {(entry.life, entry.key): entry for entry in self._keeper.loose()}
            steps = plan.rewind(found.values(), mark)
            seq = self._keeper.next(past=mark.seq)
            changed = [changed for step in steps if (changed := self._rewound(step, seq)) is not None]
            self._keeper.write(*changed, life=life, closed=False)
            return steps

    def lacks(self, mark: Mark) -> str:
        """Return what is wrong with the ledger for a checkpoint with ``mark``; see `identity.lacks`."""
        with self._lock:
            head = replace(self._keeper.head, seq=self._keeper.written)
            return identity.lacks(mark, head, self._keeper.claims)

    def begin(self, call: Call) -> Begun:
        """Begin an effect, or say why not; see `Do`.

        Raises:
            UsageError: the key is none, or was used for another kind of effect.
        """
        check_key(call.key)
        check_json("the arguments of the undo", call.call)
        with self._lock:
            entry = self._entry(call.key, call.kind)
            if self.works.undoes(self._keeper.head.life, call.key):
                return Begun(Do.WAIT)
            if entry is None or entry.state in {State.FAILED, State.UNDONE}:
                return self._start(call, entry)
            match entry.state:
                case State.DONE:
                    return self._replay(call, entry)
                case State.UNDOING:
                    return self._undo(entry)  # one that nobody is at was begun by a run that is no more
                case State.STARTED:
                    return self._unfinished(call, entry)
                case _:
                    return self._unsettled(call, entry)

    def end(self, key: str, token: str, result: Json) -> Json:
        """Record that an effect is done; return its result: that of the first time, if it was done before.

        Raises:
            UsageError: it was never begun, or the result is too large.
        """
        check_json("the result", result)
        with self._lock:
            entry = self._keeper.get(key)
            if entry is None:
                raise UsageError(
                    f"the effect {key!r} was never begun", hint="see docs/effects.md, 'Ledger lost'"
                )
            if entry.state is State.DONE:
                self._open.pop(key, None)
                return entry.result
            if entry.state not in {State.STARTED, State.FAILED} or entry.token != token:
                raise UsageError(f"the effect {key!r} was begun anew, or undone, while its function ran")
            self._keeper.write(replace(entry, state=State.DONE, result=result))
            self._open.pop(key, None)
            return result

    def fail(self, key: str, token: str) -> None:
        """Record that an effect's function raised: it did not happen, and may be begun again."""
        with self._lock:
            entry = self._keeper.get(key)
            if entry is not None and entry.state is State.STARTED and entry.token == token:
                self._keeper.write(replace(entry, state=State.FAILED, rewound=0))
            self.leave(key, token)

    def leave(self, key: str, token: str) -> None:
        """Take note that an effect's function has ended, and that nobody knows whether it happened."""
        with self._lock:
            if self._open.get(key, ("", 0.0))[0] == token:
                del self._open[key]

    def queue(self, call: Call) -> bool:
        """Queue what is to be sent once a checkpoint that covers it is committed; return whether it still is to be.

        Raises:
            UsageError: see `begin`.
        """
        check_key(call.key)
        check_json("the payload", call.call)
        with self._lock:
            entry = self._entry(call.key, Kind.DEFERRED)
            if entry is not None and entry.state is not State.CANCELLED:
                return entry.state is State.QUEUED
            self._keeper.write(self._entry_of(call, State.QUEUED, entry))
            return True

    def close(self) -> list[Entry]:
        """Close the life: its job has ended well. Return what could not be settled; the next life goes on trying."""
        with self._lock:
            left = self._keeper.loose()
            self._keeper.write(closed=True)
            return left

    def entry(self, key: str) -> Entry | None:
        """Return an entry of the present life."""
        with self._lock:
            return self._keeper.get(key)

    def _start(self, call: Call, before: Entry | None) -> Begun:
        self._keeper.write(self._entry_of(call, State.STARTED, before))
        self._open[call.key] = (call.token, self._clock() + call.seconds)
        return Begun(Do.RUN)

    def _replay(self, call: Call, entry: Entry) -> Begun:
        """Give a replay its result; what was pending is claimed by it, so that this memory's checkpoints cover it."""
        if entry.rewound:
            claimed = replace(entry, rewound=0, seq=self._keeper.next(), past=entry.closed(0))
            self._keeper.write(replace(claimed, incarnation=call.incarnation))
        return Begun(Do.RETURN, entry.result)

    def _unfinished(self, call: Call, entry: Entry) -> Begun:
        """Judge an effect that was begun and not ended."""
        token, until = self._open.get(call.key, ("", 0.0))
        if token == call.token:
            return Begun(Do.RUN)  # the request was sent again
        if self._keeper.doubts(entry):  # its begin was answered with an error: nothing was done
            return self._start(call, entry)
        if token and self._clock() < until:
            return Begun(Do.WAIT)  # another thread of this job is at it
        return self._unsettled(call, entry)

    def _unsettled(self, call: Call, entry: Entry) -> Begun:
        """Settle what nobody knows, by what the job has found out."""
        match call.settle:
            case "done":
                done = replace(entry, state=State.DONE, result=call.result, error="", past=entry.closed(0))
                self._keeper.write(replace(done, rewound=0, seq=self._keeper.next()))
                return Begun(Do.RETURN, call.result)
            case "not-done" | "retry":
                return self._start(call, entry)
            case "undo" if entry.kind is Kind.COMPENSABLE:
                return self._undo(entry)
            case _:
                return Begun(Do.PROBE, error=entry.error)

    def _undo(self, entry: Entry) -> Begun:
        """Have it undone by whoever asks; others, and the job when it asks again, wait until its turn has come."""
        self.works.expect(entry)
        return Begun(Do.UNDO)

    def _entry(self, key: str, kind: Kind) -> Entry | None:
        entry = self._keeper.get(key)
        if entry is not None and entry.kind is not kind:
            raise UsageError(
                f"the effect {key!r} is {entry.kind} already, it cannot be {kind}", hint="choose another key"
            )
        return entry

    def _entry_of(self, call: Call, state: State, before: Entry | None) -> Entry:
        return Entry(
            self._keeper.head.life,
            call.key,
            call.kind,
            self._keeper.next(),
            state,
            token=call.token,
            incarnation=call.incarnation,
            epoch=self._keeper.epoch,
            follows=call.follows,
            call=call.call,
            began=self._wall(),
            past=before.closed(0) if before else (),
        )

    def _rewound(self, step: Step, seq: int) -> Entry | None:
        """Return the entry of a step of `plan.rewind` as it is from then on; None if it stays."""
        entry = step.entry
        match step.action:
            case Action.PEND:
                return replace(entry, rewound=seq)
            case Action.CANCEL:
                return replace(entry, state=State.CANCELLED, rewound=seq)
            case Action.RECLAIM:
                state = State.QUEUED if entry.state is State.CANCELLED else entry.state
                return replace(entry, state=state, rewound=0, seq=self._keeper.next(), past=entry.closed(seq))
            case _:
                return None

    def _forget(self) -> None:
        """Forget what only the memory of the incarnation before has made true."""
        self._open.clear()
        self._keeper.forget()
