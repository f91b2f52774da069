"""The thread between a run and its pod: takes what happens from a bounded queue, and writes it when the API lets it.

It never holds the run up: what does not fit in the queue is dropped, what cannot be written waits here, and a thread
that fails says so once. Used by ``app``.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from typing import TYPE_CHECKING, Any, TypeAlias

from ckptrun.errors import CkptrunError
from ckptrun.kube.access import find_access
from ckptrun.kube.duties import Idle
from ckptrun.kube.rights import BEING_TERMINATED, missing
from ckptrun.kube.wishes import Wishes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckptrun.kube.access import Access
    from ckptrun.kube.api import ApiError
    from ckptrun.kube.duties import Duty, Hands
    from ckptrun.settings.pod import Pod

QUEUE_LIMIT = 256
"""Events of the run that wait for the thread; it takes them all before each request."""
CLOSE_SECONDS = 3.0
"""What the end of a run may wait for its last words."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before a server that does not answer is asked again: doubled each time."""
NEVER = float("inf")

Task: TypeAlias = "Callable[[], None]"


class Link:
    """Tells Kubernetes of a run, and the run of what Kubernetes wants.

    Args:
        pod: the pod this is.
        store_url: of the run's lineage.
        lineage: its name.
        hands: see `Hands`.
        environ: where the API's address is found.
        facts: returns annotations for the pod; called in the thread.
    """

    def __init__(
        self,
        pod: Pod,
        store_url: str,
        lineage: str,
        hands: Hands,
        environ: Mapping[str, str],
        facts: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._pod = pod
        self._store_url = store_url
        self._lineage = lineage
        self._hands = hands
        self._environ = dict(environ)
        self._facts = facts
        self._queue: queue.Queue[Task] = queue.Queue(QUEUE_LIMIT)
        self._thread = threading.Thread(target=self._main, name="kubernetes", daemon=True)
        self._closing = threading.Event()
        self._forbidden: set[tuple[str, str]] = set()
        self._said: set[str] = set()
        self._pause = FIRST_PAUSE
        self._not_before = 0.0
        self._wishes = Wishes()
        self._looked = False
        self._watchers: list[Any] = []
        self.lost = 0
        """Events of the run that did not fit in the queue."""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def observe(self, event: Mapping[str, Any]) -> None:
        """Take an event of the run's diary; any thread, never blocks, never raises."""
        self._put(lambda: self._told(event))

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Write what is left to write, for so long; then the thread is left to itself."""
        self._closing.set()
        self._put(lambda: None)  # wakes it
        self._thread.join(seconds)
        for watcher in self._watchers:
            watcher.close()

    def _put(self, task: Task) -> None:
        try:
            self._queue.put_nowait(task)
        except queue.Full:
            self.lost += 1

    # --- the thread

    def _main(self) -> None:
        try:
            self._open()
        except CkptrunError as error:
            self._hands.tell(
                f"Kubernetes will not hear of this run, there is no access to its API: {error}; all else works"
            )
            self._drop_all()
            return
        except Exception as error:  # noqa: BLE001 -- the run is worth more than what is told of it
            self._hands.tell(f"Kubernetes will not hear of this run: {type(error).__name__}: {error}")
            self._drop_all()
            return
        try:
            self._loop()
        except Exception as error:  # noqa: BLE001 -- likewise
            self._hands.tell(f"Kubernetes will not hear more of this run: {type(error).__name__}: {error}")
            self._drop_all()

    def _open(self) -> None:
        """Find the API, and begin to look at the pod; what takes memory is imported here, in the thread."""
        from ckptrun.kube.api import Api  # noqa: PLC0415 -- urllib3 and TLS
        from ckptrun.kube.board import Board  # noqa: PLC0415 -- they import it too
        from ckptrun.kube.face import Face  # noqa: PLC0415
        from ckptrun.kube.presence import Presence  # noqa: PLC0415
        from ckptrun.kube.story import Story  # noqa: PLC0415

        access = find_access(self._environ)
        self._api = Api(access)
        self._story = Story(time.time)
        self._board = Board(self._pod, time.time)
        self._face = Face(self._pod, self._story, self._facts(), time.time)
        presence = Presence(self._pod, self._store_url, self._lineage, time.time, self._board.add)
        self._duties: list[Duty] = [self._board, self._face]
        if self._pod.uid:
            self._duties.append(presence)
        self._watch(access)

    def _watch(self, access: Access) -> None:
        from ckptrun.kube.watching import Watcher  # noqa: PLC0415 -- see _open

        pods = f"/api/v1/namespaces/{self._pod.namespace}/pods"
        self._watchers.append(
            Watcher(access, "pods", pods, self._pod.name, self._pod_seen, self._watch_failed)
        )
        if self._pod.node:
            self._watchers.append(
                Watcher(access, "nodes", "/api/v1/nodes", self._pod.node, self._node_seen, self._watch_failed)
            )
        for watcher in self._watchers:
            watcher.start()

    def _loop(self) -> None:
        closing = False
        while True:
            if self._closing.is_set() and not closing:
                closing = True
                self._absorb(0.0)
                for duty in self._duties:
                    duty.hurry()
            duty, when = self._next()
            now = time.time()
            if when > now:
                if closing and (when == NEVER or self._not_before > now):
                    return
                self._absorb(min(when - now, 3600.0))
                continue
            self._absorb(0.0)
            self._work(duty)

    def _next(self) -> tuple[Duty, float]:
        duty = min(self._duties, key=lambda duty: duty.due())
        return duty, max(duty.due(), self._not_before)

    def _absorb(self, seconds: float) -> None:
        """Take what has happened, waiting so long for the first thing."""
        try:
            task = self._queue.get(timeout=seconds) if seconds > 0 else self._queue.get_nowait()
            while True:
                task()
                task = self._queue.get_nowait()
        except queue.Empty:
            return

    def _work(self, duty: Duty) -> None:
        from ckptrun.kube.api import ApiError  # noqa: PLC0415 -- see _open

        try:
            duty.work(self._api)
        except ApiError as error:
            self._failed(error, duty)
            return
        if self._pause > FIRST_PAUSE:
            self._hands.detail("the Kubernetes API answers again")
        self._pause, self._not_before = FIRST_PAUSE, 0.0

    def _failed(self, error: ApiError, duty: Duty) -> None:
        if error.status == 403:  # forbidden
            if BEING_TERMINATED not in error.message:
                self._refused(error)
            if not duty.refused(error.verb):
                self._duties = [other for other in self._duties if other is not duty] or [Idle()]
        elif error.passing:
            self._once(
                "no answer",
                f"the Kubernetes API at {self._api.url} cannot be used: {error.message}; what is to be told waits, "
                "the run goes on",
            )
            after = max(error.retry_after or 0.0, self._pause * random.uniform(0.5, 1.0))  # noqa: S311 -- spreads pods
            self._not_before = time.time() + after
            self._pause = min(self._pause * 2, LONGEST_PAUSE)
        else:
            self._hands.detail(f"Kubernetes refused to {error.verb} {error.kind}: {error.message}")

    def _refused(self, error: ApiError) -> None:
        """Say once which right is missing, and what it would be good for."""
        key = (error.verb, error.kind)
        if key in self._forbidden:
            return
        self._forbidden.add(key)
        say = self._hands.detail if error.kind == "nodes" else self._hands.tell  # few clusters grant that one
        say(missing(self._pod, error.verb, error.kind))

    def _once(self, key: str, text: str) -> None:
        if key not in self._said:
            self._said.add(key)
            self._hands.tell(text)

    def _drop_all(self) -> None:
        """Nobody takes anything from here on: let nothing lie in the queue that a run without an end fills."""
        self._put = self._forget  # type: ignore[method-assign]
        while not self._queue.empty():
            self._queue.get_nowait()

    def _forget(self, task: Task) -> None:
        """Take no note."""

    def _told(self, event: Mapping[str, Any]) -> None:
        for notice in self._story.take(event):
            self._board.add(notice)

    # --- the watchers' threads

    def _pod_seen(self, pod: dict[str, Any]) -> None:
        if self._pod.uid and pod.get("metadata", {}).get("uid") != self._pod.uid:
            return  # another pod of that name
        if not self._looked:
            self._looked = True
            self._put(lambda: self._adopt(pod))
        if wish := self._wishes.wanted(pod):
            self._hands.detail(f"a checkpoint is asked for by the pod's annotation ({wish})")
            self._hands.ask(
                lambda checkpoint, error: self._put(lambda: self._answered(wish, checkpoint, error))
            )
        if why := self._wishes.pod_leaves(pod):
            self._hands.foresee(why, True)

    def _node_seen(self, node: dict[str, Any]) -> None:
        if why := self._wishes.node_leaves(node):
            self._hands.foresee(why, False)

    def _watch_failed(self, error: ApiError) -> None:
        if error.status == 403:  # forbidden
            self._put(lambda: self._refused(error))
            if error.kind == "pods":
                self._put(lambda: self._face.looked({}))
        else:
            self._hands.detail(f"the watch of {error.kind} broke off: {error.message}")

    # --- from there, in the thread

    def _adopt(self, pod: Mapping[str, Any]) -> None:
        self._story.adopt(pod)
        self._face.looked(pod)

    def _answered(self, wish: str, checkpoint: str | None, error: str | None) -> None:
        self._story.answered(wish, checkpoint, error)
        self._face.hurry()
