"""Runs the hooks of a run: which, in what order, and what their failures mean for what is being done.

Called from worker threads. A checkpoint or a restore is a `Bracket`: a hook whose pre- phase was begun gets its post-
phase, whatever happens between. The other phases are queued with `Hooks.later` and run one after another in one thread.
Without hooks nothing is paid: no thread, no process.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptrun.hooking.bracket import Bracket
from ckptrun.hooking.calling import Caller
from ckptrun.hooking.contract import (
    BACKWARDS,
    CLOSES,
    Hook,
    Occasion,
    Phase,
    Surroundings,
)
from ckptrun.hooking.messages import Round
from ckptrun.hooking.notes import Notes, Ran, Record
from ckptrun.hooking.staying import Staying

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from ckptrun.core.model import Json
    from ckptrun.hooking.messages import Mailbag

COMMITS_WAITING = 4
"""Commits whose hooks may wait for hooks that run."""
UNWIND_SECONDS = 30.0
"""How long a dump or restore that is being given up may take to come to its closing hooks."""


def _no_record(event: str, **fields: Any) -> None:
    del event, fields


class Hooks:
    """The hooks of one run. Thread-safe: one hook runs at a time.

    Args:
        hooks: in the order in which they begin.
        around: see `Surroundings`.
        launcher: see `runner.run`.
        epoch: returns the lineage's, 0 while it is not known.
        tell: takes one sentence for the user.
        record: see `Record`.
        clock: monotonic seconds.
        mailbag: what the job has deferred for hooks; None: nothing, ever.
    """

    def __init__(
        self,
        hooks: Sequence[Hook] = (),
        around: Surroundings | None = None,
        launcher: Sequence[str] = (),
        *,
        epoch: Callable[[], int] = lambda: 0,
        tell: Callable[[str], None] = lambda _text: None,
        record: Record | None = None,
        clock: Callable[[], float] = time.monotonic,
        mailbag: Mailbag | None = None,
    ) -> None:
        self.hooks = tuple(hooks)
        self._mailbag = mailbag
        self._launcher = launcher
        self._tell = tell
        self._record: Record = record or _no_record
        notes = Notes(tell, self._record, clock)
        self._caller = Caller(around or Surroundings("", "", (), "/"), launcher, epoch, notes)
        self._alone = threading.Lock()
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Occasion, Mapping[str, dict[str, Json]]]] = deque()
        self._thread: threading.Thread | None = None
        self._open = 0

    def add(self, hook: Hook) -> None:
        """Have one more hook from now on; brackets that are open do without it."""
        self.hooks = tuple(sorted((*self.hooks, hook), key=lambda one: one.place))

    def wants(self, *phases: Phase) -> bool:
        """Whether a hook takes part in one of these phases."""
        return any(phase in hook.programs for hook in self.hooks for phase in phases)

    def bracket(self, occasion: Occasion, data: Mapping[str, dict[str, Json]] | None = None) -> Bracket:
        """Return the bracket of a checkpoint or a restore; `data` is what hooks had stored with it."""
        return Bracket(self, occasion, data or {}, Staying(self._launcher))

    def later(self, occasion: Occasion, data: Mapping[str, dict[str, Json]] | None = None) -> None:
        """Have the hooks of a phase run, after those that wait already."""
        if not self.wants(occasion.phase):
            return
        with self._changed:
            self._make_room()
            self._waiting.append((occasion, data or {}))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="hooks", daemon=True)
                self._thread.start()

    def _make_room(self) -> None:
        """Leave out what hooks are too slow for: a restore and the run's end wait for all of it."""
        commits = [item for item in self._waiting if item[0].phase is Phase.POST_COMMIT]
        if len(commits) < COMMITS_WAITING:
            return
        self._waiting.remove(commits[0])
        oldest = commits[0][0].checkpoint
        name = oldest.id if oldest else ""
        self._record("hooks-left-out", phase=str(Phase.POST_COMMIT), checkpoint=name)
        self._tell(
            f"hooks are slower than checkpoints: those of post-commit are left out for checkpoint {name}"
        )

    def settle(self) -> None:
        """Wait until everything that waits has run and every bracket is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._thread is None)
            self._changed.wait_for(lambda: self._open == 0, self._patience())

    def run(
        self,
        phase: Phase,
        occasion: Occasion,
        hooks: Iterable[Hook],
        data: Mapping[str, Mapping[str, Json]],
        apart: float | None = None,
        *,
        staying: Staying | None = None,
    ) -> list[Ran]:
        """Run these hooks in the order of the phase, one at a time, whatever comes of each; see `call`."""
        ordered = list(hooks)
        if phase in BACKWARDS:
            ordered.reverse()
        occasion = replace(occasion, phase=phase)
        rans = []
        for hook in ordered:
            if phase is Phase.POST_COMMIT and hook.messages and self._mailbag:
                rans += self._deliver(
                    hook, occasion, data.get(hook.name), Round(self._mailbag, hook.name), apart
                )
            else:
                rans.append(self.call(hook, occasion, data.get(hook.name), apart, staying=staying))
        return rans

    def hand_over(self, occasion: Occasion) -> None:
        """Have the hooks that take messages run if any wait, though nothing was committed: the job has ended."""
        for hook in self.hooks:
            if hook.messages and self._mailbag:
                self._deliver(hook, occasion, None, Round(self._mailbag, hook.name), 0.0, always=False)

    def _deliver(
        self,
        hook: Hook,
        occasion: Occasion,
        data: Mapping[str, Json] | None,
        given: Round,
        apart: float | None,
        *,
        always: bool = True,
    ) -> list[Ran]:
        """Run a hook that takes messages, with batch after batch, until all were offered or others want their turn.

        Args:
            hook: see `call`.
            occasion: likewise.
            data: likewise.
            given: its messages.
            apart: see `call`.
            always: run it once even if no message waits.
        """
        rans: list[Ran] = []
        with given:
            while True:
                with self._turn(apart):
                    if not given.begin() and (rans or not always):
                        return rans
                    rans.append(self._caller.call(hook, occasion, data, given))
                    if not given.end(rans[-1].result) or self._waiting:
                        return rans

    def call(
        self,
        hook: Hook,
        occasion: Occasion,
        data: Mapping[str, Json] | None,
        apart: float | None = None,
        *,
        staying: Staying | None = None,
    ) -> Ran:
        """Run one hook, again while it asks for that and its time lasts, and note how it went.

        Args:
            hook: which.
            occasion: what for.
            data: its own.
            apart: monotonic seconds until which it waits for brackets to be closed; None: it belongs to one.
            staying: that one's processes that stay.
        """
        with self._turn(apart):
            return self._caller.call(hook, occasion, data, staying=staying)

    @contextlib.contextmanager
    def _turn(self, apart: float | None) -> Iterator[None]:
        """Be the one hook that runs. What a bracket holds over a dump, a hook outside of it may have to wait for."""
        while True:
            if apart is not None:
                with self._changed:
                    self._changed.wait_for(lambda: self._open == 0, max(apart - time.monotonic(), 0.0))
            with self._alone:  # who has opened a bracket meanwhile comes first
                if apart is None or self._open == 0 or time.monotonic() >= apart:
                    yield
                    return

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._thread = None
                    self._changed.notify_all()
                    return
                occasion, data = self._waiting.popleft()
            taking = [hook for hook in self.hooks if occasion.phase in hook.programs]
            try:
                self.run(occasion.phase, occasion, taking, data, time.monotonic() + self._patience())
            except Exception as error:  # noqa: BLE001 - a restore and the run's end wait for this thread
                self._tell(f"hooks of {occasion.phase} could not be run: {error!r}; the run goes on")

    def _patience(self) -> float:
        """Return the seconds that closing a bracket may take, whichever of its hooks runs now."""
        phases = {*CLOSES, *CLOSES.values()}
        return UNWIND_SECONDS + sum(h.timeout for h in self.hooks for phase in h.programs if phase in phases)

    def opened(self, change: int) -> None:
        """Count brackets that are open."""
        with self._changed:
            self._open += change
            self._changed.notify_all()
