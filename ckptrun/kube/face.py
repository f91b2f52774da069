"""How a run stands, in its pod's status: conditions and annotations, in one patch, and not too often."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptrun.kube import objects
from ckptrun.kube.api import FORBIDDEN, ApiError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckptrun.kube.api import Api
    from ckptrun.kube.objects import Condition
    from ckptrun.kube.story import Story
    from ckptrun.settings.pod import Pod

AGAIN_SECONDS, TURNED_SECONDS = 15.0, 1.0
"""Between two patches, and before one with a condition that has turned."""
FIRST_LOOK_SECONDS = 5.0
"""How long to wait for what the pod says already, before the first patch."""
NEVER = float("inf")


class Face:
    """Writes the pod's conditions and annotations.

    Args:
        pod: which.
        story: what is to be said.
        facts: annotations to be written beside what it says.
        clock: seconds since the epoch.
    """

    def __init__(self, pod: Pod, story: Story, facts: Mapping[str, str], clock: Callable[[], float]) -> None:
        self._pod = pod
        self._story = story
        self._clock = clock
        self._facts = dict(facts)
        self._conditions: dict[str, Condition] = {}
        self._annotations: dict[str, str] = {}
        self._next = self._at_once = clock() + FIRST_LOOK_SECONDS

    def looked(self, pod: Mapping[str, Any]) -> None:
        """Take note of what the pod says already, once the story has adopted it."""
        said = {entry.get("type"): entry for entry in pod.get("status", {}).get("conditions") or ()}
        for kind, condition in self._story.conditions.items():
            if (said.get(kind) or {}).get("message") == objects.short(condition.message):
                self._conditions[kind] = condition
        self._annotations.update(pod.get("metadata", {}).get("annotations") or {})
        self._next = self._at_once = 0.0

    def refused(self, verb: str) -> bool:  # noqa: ARG002 -- every one is needed
        """Tell whether there is anything to do without the right to do this."""
        return False

    def hurry(self) -> None:
        """Write at once what there is to write."""
        self._next = 0.0

    def due(self) -> float:
        """Return when there is something to write, in seconds since the epoch."""
        conditions, annotations = self._changes()
        if any(self._turned(kind, condition) for kind, condition in conditions.items()):
            return min(self._next, self._at_once)
        return self._next if conditions or annotations else NEVER

    def work(self, api: Api) -> None:
        """Write it.

        Raises:
            ApiError: it could not be written.
        """
        conditions, annotations = self._changes()
        body = objects.status_patch(self._pod, conditions, annotations)
        path = f"/api/v1/namespaces/{self._pod.namespace}/pods/{self._pod.name}/status"
        try:
            api.call("patch", "pods/status", path, body)
        except ApiError as error:
            if error.passing or error.status == FORBIDDEN:
                raise
            self._written(conditions, annotations)  # it will never be taken
            raise
        self._written(conditions, annotations)

    def _written(self, conditions: Mapping[str, Condition], annotations: Mapping[str, str]) -> None:
        self._conditions.update(conditions)
        self._annotations.update(annotations)
        now = self._clock()
        self._next, self._at_once = now + AGAIN_SECONDS, now + TURNED_SECONDS

    def _turned(self, kind: str, condition: Condition) -> bool:
        """Tell whether a condition holds that did not, or no longer holds."""
        written = self._conditions.get(kind)
        return written is None or written.status is not condition.status

    def _changes(self) -> tuple[dict[str, Condition], dict[str, str]]:
        conditions = {k: c for k, c in self._story.conditions.items() if self._conditions.get(k) != c}
        wanted = {**self._facts, **self._story.annotations}
        return conditions, {k: v for k, v in wanted.items() if self._annotations.get(k) != v}
