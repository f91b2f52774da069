"""The Events of one run: the same thing again is counted up in the Event that is there, and not too often.

A reason is written at once when it has been quiet, then at most every `AGAIN_SECONDS`, with the newest message and the
count; what was quiet for `SERIES_SECONDS` begins a new Event. There are some twenty reasons: no run floods a cluster.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptrun.kube import objects
from ckptrun.kube.api import CONFLICT, FORBIDDEN, NOT_FOUND, ApiError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptrun.kube.api import Api
    from ckptrun.kube.objects import Notice
    from ckptrun.settings.pod import Pod

AGAIN_SECONDS = 30.0
SERIES_SECONDS = 600.0
NEVER = float("inf")


@dataclass(slots=True)
class _Series:
    """One Event: how often, when (seconds since the epoch), and what of it the API knows."""

    name: str
    notice: Notice
    count: int
    first: float
    last: float
    exists: bool = False
    written: bool = False
    next_write: float = 0.0


class Board:
    """Writes Events on the pod.

    Args:
        pod: which.
        clock: seconds since the epoch.
    """

    def __init__(self, pod: Pod, clock: Callable[[], float]) -> None:
        self._pod = pod
        self._clock = clock
        self._series: dict[str, _Series] = {}
        self._hurried = False
        self._counts = True

    def add(self, notice: Notice) -> None:
        """Tell of something."""
        now = self._clock()
        series = self._series.get(notice.reason)
        if series is None or now - series.last > SERIES_SECONDS:
            self._series[notice.reason] = _Series(self._new_name(), notice, 1, now, now)
            return
        series.notice, series.last, series.written = notice, now, False
        series.count += 1

    def due(self) -> float:
        """Return when there is something to write, in seconds since the epoch."""
        return min((self._when(series) for series in self._series.values()), default=NEVER)

    def refused(self, verb: str) -> bool:
        """Tell whether there is anything to do without the right to do this: without ``patch``, nothing is counted."""
        self._counts = self._counts and verb != "patch"
        return verb == "patch"

    def hurry(self) -> None:
        """Write without waiting from now on: the run ends."""
        self._hurried = True

    def work(self, api: Api) -> None:
        """Write what has been due longest.

        Raises:
            ApiError: it could not be written.
        """
        series = min(self._series.values(), key=self._when)
        count, last = series.count, series.last
        try:
            self._write(api, series)
        except ApiError as error:
            if error.passing or error.status == FORBIDDEN:
                raise
            series.written = True  # it will never be taken: let the next one of this kind be tried
            raise
        series.exists = True
        series.written = (count, last) == (series.count, series.last)
        series.next_write = self._clock() + AGAIN_SECONDS

    def _write(self, api: Api, series: _Series) -> None:
        folder = f"/api/v1/namespaces/{self._pod.namespace}/events"
        if series.exists:
            try:
                body = objects.event_patch(series.notice, series.count, series.last)
                api.call("patch", "events", f"{folder}/{series.name}", body)
            except ApiError as error:
                if error.status != NOT_FOUND:
                    raise
                series.name = self._new_name()  # it has expired, or somebody has deleted it
            else:
                return
        body = objects.event(self._pod, series.name, series.notice, series.count, series.first, series.last)
        try:
            api.call("create", "events", folder, body)
        except ApiError as error:
            if error.status != CONFLICT:  # else an answer of the server's was lost: it is there
                raise

    def _when(self, series: _Series) -> float:
        if series.written or (series.exists and not self._counts):
            return NEVER
        return 0.0 if self._hurried else series.next_write

    def _new_name(self) -> str:
        return objects.event_name(self._pod, secrets.token_hex(8))
