"""One call of a hook: its context, its process, another try if it asks for one, and what its answer is worth.

Used by `phases`, which says whose turn it is.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptrun.hooking import runner
from ckptrun.hooking.contract import CLOSES, Outcome, Phase, context, environment
from ckptrun.hooking.notes import Ran

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ckptrun.core.model import Json
    from ckptrun.hooking.contract import Hook, Occasion, Surroundings
    from ckptrun.hooking.messages import Round
    from ckptrun.hooking.notes import Notes
    from ckptrun.hooking.result import Result
    from ckptrun.hooking.staying import Staying

RETRY_SECONDS = 1.0
"""Before a hook is run again that does not say when."""
_FAILS_AT_ONCE = frozenset({Phase.PRE_CHECKPOINT})


class Caller:
    """Calls the hooks of one run; any thread, one call at a time.

    Args:
        around: what they share.
        launcher: see `runner.run`.
        epoch: returns the lineage's, 0 while it is not known.
        notes: where calls are noted.
    """

    def __init__(
        self, around: Surroundings, launcher: Sequence[str], epoch: Callable[[], int], notes: Notes
    ) -> None:
        self._around = around
        self._launcher = launcher
        self._epoch = epoch
        self._notes = notes

    def call(
        self,
        hook: Hook,
        occasion: Occasion,
        data: Mapping[str, Json] | None,
        given: Round | None = None,
        staying: Staying | None = None,
    ) -> Ran:
        """Run a hook whose turn it is, again while it asks for that and its time lasts, and note how it went.

        Args:
            hook: which.
            occasion: what for.
            data: its own.
            given: the messages that it is handed.
            staying: of the bracket that it belongs to.
        """
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
