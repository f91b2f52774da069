"""Runs functions as another user where files are concerned: of a job that shares our files and is somebody else's.

A container's root has SETUID and no CHOWN or FOWNER: what it makes for the job it must make as the job's user.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ckptrun.capsule.fsrights import make_files_as

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptrun.capsule.spec import Identity

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Guise:
    """A `Place` in which files are made, and owners' rights used, as `identity`; every capability stays."""

    identity: Identity

    def __call__(self, work: Callable[[], T], /) -> T:
        """Run a function in a thread of its own; return what it returns, raise what it raises."""
        done: Future[T] = Future()

        def run() -> None:
            try:
                make_files_as(self.identity.uid, self.identity.gid, self.identity.groups)
                done.set_result(work())
            except BaseException as error:  # noqa: BLE001 - it belongs to the thread that waits
                done.set_exception(error)

        threading.Thread(target=run, name="guise", daemon=True).start()
        return done.result()
