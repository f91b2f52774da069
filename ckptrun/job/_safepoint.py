"""Safe points: where the job notices, in a thread of its own choice, that it was restored or has a new checkpoint."""

from __future__ import annotations

import os
import threading

from ckptrun.job import _page

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, TypeVar

    Callback = TypeVar("Callback", bound=Callable[[], object])


class _Callbacks:
    """What one process wants to be told, and what it was told last."""

    def __init__(self) -> None:
        self.restore: list[Callable[[], object]] = []
        self.checkpoint: list[Callable[[], object]] = []
        self.seen = _page.NOTHING
        self.busy = threading.Lock()
        """Held while callbacks run: a safe point inside one does nothing, one of another thread passes by."""


_callbacks = _Callbacks()


def safe_point() -> None:
    """Run the callbacks for what has happened since the last safe point.

    After a restore those of `on_restore`, then, if a checkpoint was committed, those of `on_checkpoint`; in the
    calling thread, in the order of their registration. What one raises, this raises; the others have been run.
    Every call of the SDK is a safe point; only a loop without any needs this one.
    """
    mine = _callbacks
    if not (mine.restore or mine.checkpoint) or not mine.busy.acquire(False):
        return
    try:
        now, seen = _page.read(), mine.seen
        due: list[Callable[[], object]] = []
        if not now.same_life(seen):
            due += mine.restore
        if now.newest != seen.newest:
            due += mine.checkpoint
        mine.seen = now
        _run(due)
    finally:
        mine.busy.release()


def on_restore(fn: Callback) -> Callback:
    """Have `fn` called at the first safe point after each restore; for decoration too.

    It is the place to reseed randomness and to open anew what was open to the world. Children that the process
    forks later do not inherit it.
    """
    _begin()
    _callbacks.restore.append(fn)
    return fn


def on_checkpoint(fn: Callback) -> Callback:
    """Have `fn` called at the first safe point after a checkpoint was committed; for decoration too."""
    _begin()
    _callbacks.checkpoint.append(fn)
    return fn


def _begin() -> None:
    if not (_callbacks.restore or _callbacks.checkpoint):
        _callbacks.seen = _page.read()


def _run(callbacks: list[Callable[[], object]]) -> None:
    first = None
    for callback in callbacks:
        try:
            callback()
        except Exception as error:  # noqa: BLE001, PERF203 - the others have a right to be told
            first = first or error
    if first is not None:
        raise first


def _forked() -> None:
    global _callbacks  # noqa: PLW0603
    _callbacks = _Callbacks()


os.register_at_fork(after_in_child=_forked)
