"""Runs the hooks of a run: which, in what order, and what their failures mean for what is being done.

Called from worker threads. A checkpoint or a restore is a `Bracket`: a hook whose pre- phase was begun gets its post-
phase, whatever happens between. The other phases are queued with `Hooks.later` and run one after another in one thread.
Without hooks nothing is paid: no thread, no process.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptrun.hooking import runner
from ckptrun.hooking.bracket import Bracket
from ckptrun.hooking.contract import (
    BACKWARDS,
    CLOSES,
    Hook,
    Occasion,
    Outcome,
    Phase,
    Result,
    Surroundings,
    context,
    environment,
)
from ckptrun.hooking.messages import Round
from ckptrun.hooking.notes import Notes, Ran, Record
from ckptrun.hooking.staying import Staying

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from ckptrun.core.model import Json
    from ckptrun.hooking.messages import Mailbag

RETRY_SECONDS = 1.0
"""Before a hook is run again that does not say when."""
COMMITS_WAITING = 4
"""Commits whose hooks may wait for hooks that run."""
UNWIND_SECONDS = 30.0
"""How long a dump or restore that is being given up may take to come to its closing hooks."""
_FAILS_AT_ONCE = frozenset({Phase.PRE_CHECKPOINT})


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
        self._around = around or Surroundings("", "", (), "/")
        self._launcher = launcher
        self._epoch = epoch
        self._tell = tell
        self._record: Record = record or _no_record
        self._notes = Notes(tell, self._record, clock)
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
                    rans.append(self._called(hook, occasion, data, given))
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
            return self._called(hook, occasion, data, staying=staying)

    def _called(
        self,
        hook: Hook,
        occasion: Occasion,
        data: Mapping[str, Json] | None,
        given: Round | None = None,
        staying: Staying | None = None,
    ) -> Ran:
        """Run a hook whose turn it is; see `call`."""
        began, left, stderr = time.monotonic(), hook.timeout, ""
        while True:
            ended = self._run(hook, occasion, data, left, given, staying)
            stderr += ended.stderr
            result = self._judged(hook, occasion.phase, runner.judge(ended, left))
            if given:
                result = given.answered(result)
            self._notes.events(hook, occasion, result)
            pause = RETRY_SECONDS if result.retry_after is None else max(result.retry_after, 0.05)
            left = hook.timeout - (time.monotonic() - began) - pause
            if result.outcome is not Outcome.RETRY or occasion.phase in _FAILS_AT_ONCE:
                break
            if left <= 0:
                reason = result.reason or "it asks for another try"
                result = replace(result, outcome=Outcome.FAILED, reason=f"{reason}, and its time is over")
                break
            time.sleep(pause)
        ran = Ran(hook, result, time.monotonic() - began, stderr)
        self._notes.ran(ran, occasion)
        return ran

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

    def _run(
        self,
        hook: Hook,
        occasion: Occasion,
        data: Mapping[str, Json] | None,
        timeout: float,
        given: Round | None,
        staying: Staying | None,
    ) -> runner.Ended:
        """Run a hook once; if even that fails, the hook has failed and nothing else."""
        argv = hook.programs[occasion.phase]
        try:
            messages = given.given() if given else None
            told = context(
                hook,
                occasion,
                self._around,
                epoch=self._epoch(),
                timeout=timeout,
                data=data,
                messages=messages,
            )
            around = environment(occasion, self._around)
            call = runner.Call(argv, self._around.cwd, around, json.dumps(told).encode(), timeout)
            if staying is None or not hook.stays:
                return runner.run(self._launcher, call)
            if occasion.phase in CLOSES:
                return staying.begin(hook.name, call)
            return staying.close(hook.name, call)
        except Exception as error:  # noqa: BLE001 - no descriptors left, no memory: the run is worth more than its hooks
            return runner.Ended(70, b"", f"{argv[0]} cannot be run: {error!r}", 0.0)

    def _judged(self, hook: Hook, phase: Phase, result: Result) -> Result:
        if result.outcome is Outcome.VETO and phase is not Phase.PRE_CHECKPOINT:
            reason = f"a veto means nothing in {phase}" + (f" ({result.reason})" if result.reason else "")
            return replace(result, outcome=Outcome.FAILED, reason=reason)
        missing = [name for name in hook.require.get(phase, ()) if name not in result.done]
        if result.outcome is Outcome.OK and missing and not self._around.dry_run:
            reason = f"it ended well and has not done what is required: {', '.join(missing)}"
            return replace(result, outcome=Outcome.FAILED, reason=reason)
        return result

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
