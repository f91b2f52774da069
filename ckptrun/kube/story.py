"""What a run's events mean to whoever looks at its pod: Notices, conditions, the newest checkpoint. Pure.

Fed by `link` with the events of ``telemetry.events``, in their order.
"""

from __future__ import annotations

import calendar
import json
import time
from typing import TYPE_CHECKING, Any

from ckptrun.core.events import JOB_ENDED
from ckptrun.kube.objects import Condition, Notice
from ckptrun.settings.units import format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CHECKPOINTED, RESTORED = "ckptrun.dev/Checkpointed", "ckptrun.dev/Restored"
LAST = "ckptrun.dev/last-checkpoint"
"""Annotation: JSON with ``id, seq, time, trigger`` of the newest commit, and how the newest wish ended."""

_REMEMBERED = 16
AGAIN = 75
"""ckptrun's exit code for: run me again."""


class Story:
    """One run, as told so far.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._staged: dict[str, Mapping[str, Any]] = {}
        self._last: dict[str, Any] = {}
        self.conditions: dict[str, Condition] = {}

    @property
    def annotations(self) -> dict[str, str]:
        """The annotations that say how the run stands."""
        return {LAST: json.dumps(self._last)} if self._last else {}

    def adopt(self, pod: Mapping[str, Any]) -> None:
        """Take over what the pod says at the first look: after a restart of the container, it has its past."""
        for entry in pod.get("status", {}).get("conditions") or ():
            kind, since = entry.get("type"), _seconds(entry.get("lastTransitionTime"))
            if kind in {CHECKPOINTED, RESTORED}:
                old = Condition(
                    entry.get("status") == "True", entry.get("reason", ""), entry.get("message", ""), since
                )
                mine = self.conditions.get(kind)
                if mine is None:
                    self.conditions[kind] = old
                elif mine.status is old.status:
                    self.conditions[kind] = Condition(mine.status, mine.reason, mine.message, since)
        self._last = {**last_of(pod), **self._last}

    def answered(self, wish: str, checkpoint: str | None, error: str | None) -> None:
        """Note how a wish for a checkpoint ended."""
        self._last |= {"asked": wish, "result": "failed" if error else "committed"}
        self._last.pop("error", None)
        if error:
            self._last["error"] = error[:500]
        if checkpoint:
            self._last.setdefault("id", checkpoint)

    def take(self, event: Mapping[str, Any]) -> list[Notice]:
        """Go on with an event; return what to tell."""
        teller = _TELLERS.get(str(event.get("event")))
        return teller(self, event) if teller else []

    def _turned(self, kind: str, status: bool, reason: str, message: str) -> list[Notice]:
        """Have a condition hold or not; return what to tell of it: a warning if it does not."""
        old = self.conditions.get(kind)
        since = old.since if old is not None and old.status is status else self._clock()
        self.conditions[kind] = Condition(status, reason, message, since)
        return [Notice(reason, message, warning=not status)]

    def _checkpoint_staged(self, event: Mapping[str, Any]) -> list[Notice]:
        self._staged[str(event.get("id"))] = event
        while len(self._staged) > _REMEMBERED:
            del self._staged[next(iter(self._staged))]
        return []

    def _checkpoint_committed(self, event: Mapping[str, Any]) -> list[Notice]:
        name = str(event.get("id"))
        staged = self._staged.pop(name, {})
        self._last |= {
            "id": name,
            "seq": event.get("seq"),
            "time": event.get("time"),
            "trigger": staged.get("trigger"),
        }
        figures = []
        if "frozen_seconds" in staged:
            figures.append(f"the job was frozen for {format_duration(staged['frozen_seconds'])}")
        if "memory_bytes" in staged:
            figures.append(f"{format_size(staged['memory_bytes'])} of memory")
        if event.get("upload_seconds") is not None:
            figures.append(f"stored in {format_duration(event['upload_seconds'])}")
        details = f" ({'; '.join(figures)})" if figures else ""
        message = f"checkpoint {name} is committed{details}"
        return self._turned(CHECKPOINTED, True, "CheckpointCommitted", message)

    def _checkpoint_failed(self, event: Mapping[str, Any]) -> list[Notice]:
        reason = str(event.get("reason"))
        if reason in _NO_FAULT:
            return []
        message = f"checkpoint {event.get('id')} failed: {reason}; the job runs on"
        return self._turned(CHECKPOINTED, False, "CheckpointFailed", message)

    def _commit_failed(self, event: Mapping[str, Any]) -> list[Notice]:
        again = "it is tried again" if event.get("transient") else "the job runs on"
        message = f"checkpoint {event.get('id')} could not be stored: {event.get('reason')}; {again}"
        return self._turned(CHECKPOINTED, False, "CheckpointNotStored", message)

    def _job_started(self, event: Mapping[str, Any]) -> list[Notice]:
        del event
        self._turned(RESTORED, False, "StartedAnew", "the job was started anew, not restored")
        return []

    def _job_restored(self, event: Mapping[str, Any]) -> list[Notice]:
        age = event.get("age_seconds")
        taken = "" if age is None else f", taken {format_duration(age)} ago"
        message = f"the job runs again, restored from checkpoint {event.get('checkpoint')}{taken}"
        return self._turned(RESTORED, True, "RestoredFromCheckpoint", message)

    def _job_resumed(self, event: Mapping[str, Any]) -> list[Notice]:
        del event
        return [Notice("ServedAgain", "the job has run on without its sidecar, and is served again as it is")]

    def _restore_failed(self, event: Mapping[str, Any]) -> list[Notice]:
        message = f"checkpoint {event.get('checkpoint')} could not be restored: {event.get('reason')}"
        return self._turned(RESTORED, False, "RestoreFailed", message)

    def _job_ended(self, event: Mapping[str, Any]) -> list[Notice]:
        code, signum = event.get("code"), event.get("signal")
        if event.get("oom"):
            return [
                Notice(
                    "JobOutOfMemory",
                    "the job was killed for its memory: raise the container's limit",
                    warning=True,
                )
            ]
        if signum:
            return [Notice("JobKilled", f"the job was ended by signal {signum}", warning=True)]
        return [Notice("JobFailed", f"the job ended with exit code {code}", warning=True)] if code else []

    def _store_unusable(self, event: Mapping[str, Any]) -> list[Notice]:
        message = f"{event.get('reason')}; checkpoints stay in memory"
        return self._turned(CHECKPOINTED, False, "StoreUnusable", message)

    def _run_ended(self, event: Mapping[str, Any]) -> list[Notice]:
        end = event.get("exit") or {}
        if end.get("by") == "ckptrun" and end.get("code") == AGAIN:
            return [
                Notice("Interrupted", "the run was stopped after its last checkpoint; the next pod goes on")
            ]
        return []


_NO_FAULT = frozenset({"the run has ended", "the run is stopping", "the lineage was taken over", JOB_ENDED})
"""Why a checkpoint that was begun is not wanted any more: nobody need look."""


def _warns(reason: str, template: str) -> Callable[[Story, Mapping[str, Any]], list[Notice]]:
    """Return a teller of one warning, in which fields of the event stand."""

    def tell(_: Story, event: Mapping[str, Any]) -> list[Notice]:
        return [Notice(reason, template.format_map(_Fields(event)), warning=True)]

    return tell


class _Fields(dict[str, Any]):
    """Fields of an event; a missing one is a question mark."""

    def __missing__(self, key: str) -> str:
        return "?"


_TELLERS: dict[str, Callable[[Story, Mapping[str, Any]], list[Notice]]] = {
    "checkpoint-staged": Story._checkpoint_staged,  # noqa: SLF001 -- the class's own table
    "checkpoint-committed": Story._checkpoint_committed,  # noqa: SLF001
    "checkpoint-failed": Story._checkpoint_failed,  # noqa: SLF001
    "commit-failed": Story._commit_failed,  # noqa: SLF001
    "job-started": Story._job_started,  # noqa: SLF001
    "job-resumed": Story._job_resumed,  # noqa: SLF001
    "job-restored": Story._job_restored,  # noqa: SLF001
    "restore-failed": Story._restore_failed,  # noqa: SLF001
    "job-ended": Story._job_ended,  # noqa: SLF001
    "store-unusable": Story._store_unusable,  # noqa: SLF001
    "run-ended": Story._run_ended,  # noqa: SLF001
    "checkpoint-poisoned": _warns(
        "CheckpointPoisoned",
        "checkpoint {id} is passed over from now on: the job keeps failing after it ({signature})",
    ),
    "fenced": _warns(
        "Fenced",
        "the lineage was taken over by another writer: {reason}; the job of this pod is stopped. "
        "If two pods should run, give each a lineage of its own",
    ),
    "gave-up": _warns("GaveUp", "the job was not restarted any more: {reason}"),
    "heartbeat-lost": _warns("HeartbeatLost", "the job said nothing for {within} s and is restored"),
    "start-failed": _warns("StartFailed", "the job could not be started: {error}"),
    "preemption-expected": _warns("PreemptionExpected", "{reason}: a checkpoint is taken, the job runs on"),
}


def last_of(pod: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a pod's annotation says of its newest checkpoint."""
    text = (pod.get("metadata", {}).get("annotations") or {}).get(LAST, "")
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _seconds(text: Any) -> float:
    try:
        return float(calendar.timegm(time.strptime(str(text), "%Y-%m-%dT%H:%M:%SZ")))
    except ValueError:
        return 0.0
