"""Watches one object of the Kubernetes API, for as long as the run lives, whatever becomes of the API meanwhile.

The server ends a watch after some minutes, forgets old versions (410: begin anew), dies and comes back. Used by `link`.
"""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING, Any

from ckptrun.kube.api import FORBIDDEN, GONE, Api, ApiError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptrun.kube.access import Access

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before a watch that broke off is tried again: doubled each time."""


class Watcher:
    """Watches in a thread of its own.

    Args:
        access: to the API.
        kind: the resource, as ``pods``.
        path: of the resource's collection.
        name: of the object.
        seen: takes the object, as it is and whenever it changes; it must not block.
        failed: takes the error whenever it breaks off; it is tried again, unless it is forbidden.
    """

    def __init__(
        self,
        access: Access,
        kind: str,
        path: str,
        name: str,
        seen: Callable[[dict[str, Any]], None],
        failed: Callable[[ApiError], None],
    ) -> None:
        self._access = access
        self._kind = kind
        self._path = path
        self._name = name
        self._seen = seen
        self._failed = failed
        self._closed = threading.Event()
        self._pause = FIRST_PAUSE
        self._version = ""

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._main, name=f"watch {self._kind}", daemon=True).start()

    def close(self) -> None:
        """Hear no more; the thread ends at the latest with the process."""
        self._closed.set()

    def _main(self) -> None:
        api = Api(self._access)
        while not self._closed.is_set():
            try:
                self._watch_once(api)
                self._pause = FIRST_PAUSE
            except ApiError as error:
                if error.status == GONE:
                    self._version = ""
                else:
                    self._failed(error)
                if error.status == FORBIDDEN:
                    return
            self._closed.wait(self._pause * random.uniform(0.5, 1.0))  # noqa: S311 -- spreads pods, hides nothing
            self._pause = min(self._pause * 2, LONGEST_PAUSE)

    def _watch_once(self, api: Api) -> None:
        """Watch until the server ends it. Without a version, the server tells the object as it is first."""
        query = {"fieldSelector": f"metadata.name={self._name}", "allowWatchBookmarks": "true"}
        if self._version:
            query["resourceVersion"] = self._version
        for event in api.watch(self._kind, self._path, query):
            if self._closed.is_set():
                return
            self._take(event)

    def _take(self, event: dict[str, Any]) -> None:
        found = event.get("object") or {}
        if event.get("type") == "ERROR":
            error = ApiError(int(found.get("code") or 0), str(found.get("message") or "the watch broke off"))
            error.verb, error.kind = "watch", self._kind
            raise error
        self._version = (found.get("metadata") or {}).get("resourceVersion") or self._version
        self._pause = FIRST_PAUSE
        if event.get("type") in {"ADDED", "MODIFIED"}:
            self._seen(found)
