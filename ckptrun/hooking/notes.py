"""What is told and written down of hooks: every call in the diary, complaints to the user without repeating them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ckptrun.hooking.contract import Outcome, Phase

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptrun.hooking.contract import Hook, Occasion
    from ckptrun.hooking.result import Result

STDERR_LINES = 20
"""Lines of standard error that an event holds."""
VETO_SECONDS = 600.0
VETO_AGAIN_SECONDS = 3600.0
"""A hook that has let no checkpoint through for the first time is named, and again each time the second has passed."""


class Record(Protocol):
    """Writes an event into the run's diary."""

    def __call__(self, event: str, **fields: Any) -> None:
        """Write; fields are JSON values."""


@dataclass(frozen=True, slots=True)
class Ran:
    """One hook's call: what it means, the seconds it took, the end of its standard error."""

    hook: Hook
    result: Result
    seconds: float
    stderr: str


class Notes:
    """The notes of one run.

    Args:
        tell: takes one sentence for the user.
        record: see `Record`.
        clock: monotonic seconds.
    """

    def __init__(self, tell: Callable[[str], None], record: Record, clock: Callable[[], float]) -> None:
        self._tell = tell
        self._record = record
        self._clock = clock
        self._vetoing: dict[str, tuple[float, float]] = {}
        self._complained: dict[tuple[str, Phase], str] = {}

    def ran(self, ran: Ran, occasion: Occasion) -> None:
        """Note how a call went."""
        hook, result, phase = ran.hook, ran.result, occasion.phase
        self._record(
            "hook",
            hook=hook.name,
            phase=str(phase),
            checkpoint=occasion.checkpoint.id if occasion.checkpoint else None,
            seconds=round(ran.seconds, 4),
            outcome=str(result.outcome),
            reason=result.reason,
            stderr=ran.stderr.splitlines()[-STDERR_LINES:],
        )
        if phase is Phase.PRE_CHECKPOINT:
            self._note_veto(hook, result)
        complaint = result.reason if result.outcome is Outcome.FAILED and not hook.aborts(phase) else ""
        if complaint and complaint != self._complained.get((hook.name, phase)):
            self._tell(f"hook {hook.name} failed in {phase}: {complaint}; the run goes on")
        self._complained[hook.name, phase] = complaint

    def events(self, hook: Hook, occasion: Occasion, result: Result) -> None:
        """Write down what a hook wants in the diary, under its own name."""
        for event in result.events:
            rest = {key: value for key, value in event.items() if key != "event"}
            self._record(
                "hook-event", hook=hook.name, phase=str(occasion.phase), name=event["event"], fields=rest
            )

    def _note_veto(self, hook: Hook, result: Result) -> None:
        """Name a hook that lets no checkpoint through for long: the run goes on, and nothing is saved."""
        if result.outcome not in {Outcome.VETO, Outcome.RETRY}:
            self._vetoing.pop(hook.name, None)
            return
        now = self._clock()
        since, named_next = self._vetoing.get(hook.name, (now, now + VETO_SECONDS))
        if now >= named_next:
            why = f" ({result.reason})" if result.reason else ""
            self._tell(
                f"hook {hook.name} has let no checkpoint be taken for {(now - since) / 60:.0f} minutes{why}; "
                "the job runs on unsaved"
            )
            named_next = now + VETO_AGAIN_SECONDS
        self._vetoing[hook.name] = (since, named_next)
