"""The rules of the effect ledger over whatever keeps its entries: what a job may begin, end and queue, and rewinding.

One `Book` for each run that uses effects; called by ``ckptrun.supervisor.ledger`` for the job's requests and by
`settling` for what is done behind its back. Any thread. It knows of no processes and no sockets.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptrun.effects import plan
from ckptrun.effects.model import STANDING, Entry, Head, Kind, Mark, State
from ckptrun.effects.plan import Action
from ckptrun.errors import LedgerUnavailableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptrun.core.model import Json
    from ckptrun.effects.ledger import Ledger
    from ckptrun.effects.plan import Step

KEY_BYTES = 512
JSON_BYTES = 64 * 1024
"""Most bytes of a result, of a payload or of an undo's arguments, as JSON."""


class Do:
    """What a job is told to do about an effect that it begins."""

    RUN = "run"
    """Run the function."""
    RETURN = "return"
    """It was done: here is its result."""
    PROBE = "probe"
    """It was begun and nobody knows whether it happened: find out."""
    WAIT = "wait"
    """Something is being done about it: ask again."""
    UNDO = "undo"
    """For the supervisor: have it undone, the job waits."""


@dataclass(frozen=True, slots=True)
class Begun:
    """The answer to `Book.begin`: one of `Do`, the result to return, and why an undo failed, if it did."""

    do: str
    result: Json = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """A job's wish to begin an effect.

    Args:
        key: its key.
        kind: once or compensable.
        token: of this call, unique; the same when the request is sent again.
        incarnation: of the job.
        follows: the newest checkpoint.
        call: see `Entry.call`.
        seconds: after which an unfinished one counts as unsettled.
        settle: what the caller found out of an unsettled one: "" (nothing yet), ``done``, ``not-done``, ``retry``,
            ``undo`` (undo whatever it did, then run it).
        result: with ``done``: its result.
    """

    key: str
    kind: Kind
    token: str
    incarnation: int
    follows: str = ""
    call: Json = None
    seconds: float = 60.0
    settle: str = ""
    result: Json = None


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
        self._ledger = ledger
        self._epoch = epoch
        self._clock = clock
        self._wall = wall
        self._lock = threading.RLock()
        self._open: dict[str, tuple[str, float]] = {}  # token, and until when it is believed to run
        self._doubtful: set[str] = set()
        self._undoing: set[tuple[int, str]] = set()
        self._head: Head = ledger.claim(epoch)

    @property
    def life(self) -> int:
        """The present life; see `Head`."""
        return self._head.life

    def mark(self) -> Mark:
        """Return what a dump that begins now covers."""
        with self._lock:
            return Mark(self._head.seq, self._head.life, tuple(sorted(self._open)))

    def fresh(self, *, finished: bool | None = None) -> list[Step]:
        """Take note that the job starts anew; see `rewind`.

        Args:
            finished: whether it had ended well before: this is a new life then. None if nobody knows but the ledger.
        """
        with self._lock:
            closed = self._head.closed if finished is None else finished
            if self._head.life and not closed:
                return self.rewind(Mark(self._head.life, self._head.life))
            self._forget()
            seq = self._next()
            self._write(life=seq, closed=False)
            return []

    def rewind(self, mark: Mark) -> list[Step]:
        """Go back to what a checkpoint with ``mark`` covers, in one transaction; return the plan that was followed.

        It can be repeated, and begun again after it was interrupted anywhere.
        """
        with self._lock:
            life = mark.life or self._head.life
            if mark.owed or not life:
                return self.fresh()
            self._forget()
            mark = replace(mark, seq=max(mark.seq, life), life=life)
            found = {(entry.life, entry.key): entry for entry in self._ledger.since(mark.seq)}
            found |= {(entry.life, entry.key): entry for entry in self._ledger.loose()}
            steps = plan.rewind(found.values(), mark)
            self._head = replace(self._head, seq=max(self._head.seq, mark.seq))
            seq = self._next()
            changed = [changed for step in steps if (changed := self._rewound(step, seq)) is not None]
            self._write(*changed, life=life, closed=False)
            return steps

    def lost(self, mark: Mark) -> bool:
        """Whether the ledger lacks what a checkpoint with ``mark`` counts on: it is another one, or an old copy."""
        return self._head.seq < mark.seq

    def begin(self, call: Call) -> Begun:
        """Begin an effect, or say why not; see `Do`.

        Raises:
            UsageError: the key is none, or was used for another kind of effect.
        """
        _check_key(call.key)
        check_json("the arguments of the undo", call.call)
        with self._lock:
            entry = self._entry(call.key, call.kind)
            if (self._head.life, call.key) in self._undoing:
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
            entry = self._ledger.get(self._head.life, key)
            if entry is None:
                raise UsageError(
                    f"the effect {key!r} was never begun", hint="see docs/effects.md, 'Ledger lost'"
                )
            if entry.state is State.DONE:
                self._open.pop(key, None)
                return entry.result
            if entry.state not in {State.STARTED, State.FAILED} or entry.token != token:
                raise UsageError(f"the effect {key!r} was begun anew, or undone, while its function ran")
            self._write(replace(entry, state=State.DONE, result=result))
            self._open.pop(key, None)
            return result

    def fail(self, key: str, token: str) -> None:
        """Record that an effect's function raised: it did not happen, and may be begun again."""
        with self._lock:
            entry = self._ledger.get(self._head.life, key)
            if entry is not None and entry.state is State.STARTED and entry.token == token:
                self._write(replace(entry, state=State.FAILED, rewound=0))
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
        _check_key(call.key)
        check_json("the payload", call.call)
        with self._lock:
            entry = self._entry(call.key, Kind.DEFERRED)
            if entry is not None and entry.state is not State.CANCELLED:
                return entry.state is State.QUEUED
            self._write(self._entry_of(call, State.QUEUED, entry))
            return True

    def due(self, upto: Mark | None) -> list[Step]:
        """Return what is to be done; see `plan.settle`."""
        with self._lock:
            return plan.settle(self._ledger.loose(), upto, self._head.life)

    def take(self, step: Step, *, asked: bool = False) -> Entry | None:
        """Record that a step is begun, and return its entry as it is now; None if it must not be done any more.

        Args:
            step: what is to be done.
            asked: the job waits for this undo: the entry need not be pending.
        """
        with self._lock:
            entry = self._ledger.get(step.entry.life, step.entry.key)
            if entry is None or entry.seq != step.entry.seq:
                return None  # it was claimed, or begun anew
            if step.action is Action.UNDO:
                wanted = entry.pending or entry.state is State.UNDOING or asked
                wanted = wanted and entry.state in STANDING
                taken = replace(entry, state=State.UNDOING)
            else:
                wanted = entry.state in {State.QUEUED, State.SENDING}
                taken = replace(entry, state=State.SENDING)
            if not wanted:
                return None
            if taken != entry:
                self._write(taken)
            if step.action is Action.UNDO:
                self._undoing.add((entry.life, entry.key))
            return taken

    def settled(self, entry: Entry, error: str) -> None:
        """Record how the step of an entry that `take` returned went; ``error`` is empty if it went well."""
        with self._lock:
            self._undoing.discard((entry.life, entry.key))
            now = self._ledger.get(entry.life, entry.key)
            if now is None or now.state is not entry.state or now.seq != entry.seq:
                return
            if entry.state is State.UNDOING:
                state = State.UNDO_FAILED if error else State.UNDONE
            else:
                state = State.QUEUED if error else State.SENT
            self._write(replace(now, state=state, error=error))

    def dropped(self, entry: Entry) -> None:
        """Take note that nobody is at an entry's step any more: it was not to be done, or how it went is unknown."""
        with self._lock:
            self._undoing.discard((entry.life, entry.key))

    def close(self) -> list[Entry]:
        """Close the life: its job has ended well. Return what could not be settled; the next life goes on trying."""
        with self._lock:
            left = self._ledger.loose()
            self._write(closed=True)
            return left

    def entry(self, key: str) -> Entry | None:
        """Return an entry of the present life."""
        with self._lock:
            return self._ledger.get(self._head.life, key)

    def _start(self, call: Call, before: Entry | None) -> Begun:
        self._write(self._entry_of(call, State.STARTED, before))
        self._open[call.key] = (call.token, self._clock() + call.seconds)
        return Begun(Do.RUN)

    def _replay(self, call: Call, entry: Entry) -> Begun:
        """Give a replay its result; what was pending is claimed by it, so that this memory's checkpoints cover it."""
        if entry.rewound:
            claimed = replace(entry, rewound=0, seq=self._next(), past=entry.closed(0))
            self._write(replace(claimed, incarnation=call.incarnation))
        return Begun(Do.RETURN, entry.result)

    def _unfinished(self, call: Call, entry: Entry) -> Begun:
        """Judge an effect that was begun and not ended."""
        token, until = self._open.get(call.key, ("", 0.0))
        if token == call.token:
            return Begun(Do.RUN)  # the request was sent again
        if entry.token in self._doubtful:  # its begin was answered with an error: nothing was done
            return self._start(call, entry)
        if token and self._clock() < until:
            return Begun(Do.WAIT)  # another thread of this job is at it
        return self._unsettled(call, entry)

    def _unsettled(self, call: Call, entry: Entry) -> Begun:
        """Settle what nobody knows, by what the job has found out."""
        match call.settle:
            case "done":
                done = replace(entry, state=State.DONE, result=call.result, error="", past=entry.closed(0))
                self._write(replace(done, rewound=0, seq=self._next()))
                return Begun(Do.RETURN, call.result)
            case "not-done" | "retry":
                return self._start(call, entry)
            case "undo" if entry.kind is Kind.COMPENSABLE:
                return self._undo(entry)
            case _:
                return Begun(Do.PROBE, error=entry.error)

    def _undo(self, entry: Entry) -> Begun:
        """Have it undone by whoever asks; others, and the job when it asks again, wait until its turn has come."""
        self._undoing.add((entry.life, entry.key))
        return Begun(Do.UNDO)

    def _entry(self, key: str, kind: Kind) -> Entry | None:
        entry = self._ledger.get(self._head.life, key)
        if entry is not None and entry.kind is not kind:
            raise UsageError(
                f"the effect {key!r} is {entry.kind} already, it cannot be {kind}", hint="choose another key"
            )
        return entry

    def _entry_of(self, call: Call, state: State, before: Entry | None) -> Entry:
        return Entry(
            self._head.life,
            call.key,
            call.kind,
            self._next(),
            state,
            token=call.token,
            incarnation=call.incarnation,
            epoch=self._epoch,
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
                return replace(entry, state=state, rewound=0, seq=self._next(), past=entry.closed(seq))
            case _:
                return None

    def _next(self) -> int:
        """Return the next seq. It is never given again, even if the write that uses it fails."""
        self._head = replace(self._head, seq=self._head.seq + 1)
        return self._head.seq

    def _write(self, *entries: Entry, life: int | None = None, closed: bool | None = None) -> None:
        head = replace(
            self._head,
            life=self._head.life if life is None else life,
            closed=self._head.closed if closed is None else closed,
        )
        try:
            self._ledger.write(head, entries)
        except LedgerUnavailableError:
            self._doubtful.update(one.token for one in entries if one.state is State.STARTED)
            raise
        self._head = head

    def _forget(self) -> None:
        """Forget what only the memory of the incarnation before has made true."""
        self._open.clear()
        self._doubtful.clear()


def check_json(what: str, value: Json) -> None:
    """See that ``value`` is not too large for a ledger.

    Raises:
        UsageError: it is.
    """
    size = len(json.dumps(value))
    if size > JSON_BYTES:
        raise UsageError(
            f"{what} has {size} bytes as JSON; {JSON_BYTES} are all that the ledger keeps",
            hint="keep the data elsewhere, and its name in the ledger",
        )


def _check_key(key: object) -> None:
    try:
        if isinstance(key, str) and "\0" not in key and 0 < len(key.encode()) <= KEY_BYTES:
            return
    except UnicodeEncodeError:  # half a surrogate pair, of the name of a file perhaps
        pass
    raise UsageError(f"{key!r:.80} is no key of an effect", hint=f"a key is 1 to {KEY_BYTES} bytes of UTF-8")
