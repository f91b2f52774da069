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

from ckptrun.errors import HookError
from ckptrun.hooking import runner
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
from ckptrun.hooking.notes import Notes, Ran, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from ckptrun.core.model import Json

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
    ) -> None:
        self.hooks = tuple(hooks)
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
        self.hooks = tuple(sorted((*self.hooks, hook), key=lambda one: one.order))

    def wants(self, *phases: Phase) -> bool:
        """Whether a hook takes part in one of these phases."""
        return any(phase in hook.programs for hook in self.hooks for phase in phases)

    def bracket(self, occasion: Occasion, data: Mapping[str, dict[str, Json]] | None = None) -> Bracket:
        """Return the bracket of a checkpoint or a restore; `data` is what hooks had stored with it."""
        return Bracket(self, occasion, data or {})

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
    ) -> list[Ran]:
        """Run these hooks in the order of the phase, one at a time, whatever comes of each; see `call`."""
        ordered = list(hooks)
        if phase in BACKWARDS:
            ordered.reverse()
        occasion = replace(occasion, phase=phase)
        return [self.call(hook, occasion, data.get(hook.name), apart) for hook in ordered]

    def call(
        self, hook: Hook, occasion: Occasion, data: Mapping[str, Json] | None, apart: float | None = None
    ) -> Ran:
        """Run one hook, again while it asks for that and its time lasts, and note how it went.

        Args:
            hook: which.
            occasion: what for.
            data: its own.
            apart: monotonic seconds until which it waits for brackets to be closed; None: it belongs to one.
        """
        with self._turn(apart):
            began, left, stderr = time.monotonic(), hook.timeout, ""
            while True:
                ended = self._run(hook, occasion, data, left)
                stderr += ended.stderr
                result = self._judged(hook, occasion.phase, runner.judge(ended, left))
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
        self, hook: Hook, occasion: Occasion, data: Mapping[str, Json] | None, timeout: float
    ) -> runner.Ended:
        """Run a hook once; if even that fails, the hook has failed and nothing else."""
        argv = hook.programs[occasion.phase]
        try:
            given = context(hook, occasion, self._around, epoch=self._epoch(), timeout=timeout, data=data)
            around = environment(occasion, self._around)
            call = runner.Call(argv, self._around.cwd, around, json.dumps(given).encode(), timeout)
            return runner.run(self._launcher, call)
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


class Bracket:
    """One checkpoint or one restore: its opening hooks, and later its closing ones; one thread.

    Args:
        hooks: of the run.
        occasion: of the opening phase.
        data: by hook, what is stored with this checkpoint.
    """

    def __init__(self, hooks: Hooks, occasion: Occasion, data: Mapping[str, dict[str, Json]]) -> None:
        self.data = {name: dict(value) for name, value in data.items()}
        self._hooks = hooks
        self._occasion = occasion
        self._closing = CLOSES[occasion.phase]
        self._begun: list[Hook] = []
        self._counted = False

    @property
    def is_open(self) -> bool:
        """Whether something was begun that is not closed yet."""
        return self._counted

    def open(self, given_up: Callable[[], bool] = lambda: False) -> None:
        """Run the opening hooks in order, until one of them says no or `given_up` does.

        Raises:
            HookError: a hook does not want it now, or failed and that aborts it.
        """
        phase = self._occasion.phase
        if not self._hooks.wants(phase, self._closing) or given_up():
            return
        self._hooks.opened(1)
        self._counted = True
        self._begun = [hook for hook in self._hooks.hooks if phase not in hook.programs]
        for hook in self._hooks.hooks:
            if phase not in hook.programs or given_up():
                continue
            self._begun.append(hook)
            ran = self._hooks.call(hook, self._occasion, self.data.get(hook.name))
            self._keep(ran)
            _raise_if_no(ran, phase)

    def close(self, occasion: Occasion) -> str:
        """Run the closing hooks of all that was begun, once, in reverse; return why that aborts it, or ""."""
        if not self._counted:
            return ""
        self._counted = False
        begun = [hook for hook in self._hooks.hooks if hook in self._begun and self._closing in hook.programs]
        try:
            rans = self._hooks.run(self._closing, occasion, begun, self.data)
        finally:
            self._hooks.opened(-1)
        for ran in rans:
            self._keep(ran)
        failed = [r for r in rans if r.result.outcome is Outcome.FAILED and r.hook.aborts(self._closing)]
        return "; ".join(f"hook {ran.hook.name} failed: {ran.result.reason}" for ran in failed)

    def _keep(self, ran: Ran) -> None:
        """Keep what a hook returned: its data of this phase goes over what there is, key by key."""
        if ran.result.data is not None:
            self.data[ran.hook.name] = {**self.data.get(ran.hook.name, {}), **ran.result.data}


def _raise_if_no(ran: Ran, phase: Phase) -> None:
    name, result = ran.hook.name, ran.result
    if result.outcome in {Outcome.VETO, Outcome.RETRY}:
        reason = result.reason or "not now"
        raise HookError(f"hook {name}: {reason}", skipped=True, retry_after=result.retry_after)
    if result.outcome is Outcome.FAILED and ran.hook.aborts(phase):
        raise HookError(f"hook {name} failed: {result.reason}")
