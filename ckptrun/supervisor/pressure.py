"""Gives staging's memory back when the machine, or the memory cgroup, runs short of it.

A checkpoint's local copy makes a restore fast; the job's own memory comes first. Called by ``app.run``.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ckptrun.criu.available import available_memory

if TYPE_CHECKING:
    from collections.abc import Callable

LOOK_SECONDS = 5.0
LOW_BYTES = 256 << 20
"""Less memory than this is too little; checkpoints then start cold, or go to disk."""


def watch(relieve: Callable[[], None], stop: threading.Event, low: int = LOW_BYTES) -> None:
    """Call `relieve` whenever less than `low` bytes are available, until `stop` is set; returns at once."""

    def work() -> None:
        while not stop.wait(LOOK_SECONDS):
            if available_memory() < low:
                relieve()

    threading.Thread(target=work, name="pressure", daemon=True).start()
