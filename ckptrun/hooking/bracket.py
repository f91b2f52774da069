"""One checkpoint or one restore as its hooks see it: what opens for a hook closes for it, whatever happens between."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptrun.errors import HookError
from ckptrun.hooking.contract import CLOSES, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckptrun.core.model import Json
    from ckptrun.hooking.contract import Hook, Occasion, Phase
    from ckptrun.hooking.notes import Ran
    from ckptrun.hooking.phases import Hooks
    from ckptrun.hooking.staying import Staying


class Bracket:
    """One checkpoint or one restore: its opening hooks, and later its closing ones; one thread.

    Args:
        hooks: of the run.
        occasion: of the opening phase.
        data: by hook, what is stored with this checkpoint.
        staying: for processes that stay until it is closed.
    """

    def __init__(
        self, hooks: Hooks, occasion: Occasion, data: Mapping[str, dict[str, Json]], staying: Staying
    ) -> None:
        self.data = {name: dict(value) for name, value in data.items()}
        self._hooks = hooks
        self._occasion = occasion
        self._closing = CLOSES[occasion.phase]
        self._begun: list[Hook] = []
        self._counted = False
        self._staying = staying

    @property
    def is_open(self) -> bool:
        """Whether something was begun that is not closed yet."""
        return self._counted

    def open(self, given_up: Callable[[], bool] = lambda: False, *, holding: bool | None = None) -> None:
        """Run the opening hooks in order, until one of them says no or `given_up` does.

        Args:
            given_up: asked before each.
            holding: run those only that hold somebody until they are closed, or only the others; None: all.

        Raises:
            HookError: a hook does not want it now, or failed and that aborts it.
        """
        phase = self._occasion.phase
        if not self._hooks.wants(phase, self._closing) or given_up():
            return
        if not self._counted:
            self._hooks.opened(1)
            self._counted = True
            self._begun = [hook for hook in self._hooks.hooks if phase not in hook.programs]
        for hook in self._hooks.hooks:
            if phase not in hook.programs or holding not in {None, hook.holds} or given_up():
                continue
            self._begun.append(hook)
            ran = self._hooks.call(hook, self._occasion, self.data.get(hook.name), staying=self._staying)
            self._keep(ran)
            _raise_if_no(ran, phase)

    def close(self, occasion: Occasion) -> str:
        """Run the closing hooks of all that was begun, once, in reverse; return why that aborts it, or ""."""
        if not self._counted:
            return ""
        self._counted = False
        begun = [hook for hook in self._hooks.hooks if hook in self._begun and self._closing in hook.programs]
        try:
            rans = self._hooks.run(self._closing, occasion, begun, self.data, staying=self._staying)
        finally:
            self._hooks.opened(-1)
            self._staying.end()
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
