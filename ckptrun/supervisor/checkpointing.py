"""Takes the checkpoints of a run, one at a time: memory for the dump, the attempt, and how it went.

Runs in a worker thread; answers each `TakeCheckpoint` with exactly one event.
"""

from __future__ import annotations

import contextlib
import functools
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ckptrun.core.events import JOB_ENDED, DumpFailed, DumpFinished
from ckptrun.criu.images import memory_bytes
from ckptrun.criu.staging import SLACK
from ckptrun.errors import CkptrunError, DumpError, HookError
from ckptrun.supervisor.attempt import Attempt, Order, Reins
from ckptrun.supervisor.problems import Problems

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckptrun.core.commands import TakeCheckpoint
    from ckptrun.core.model import Source
    from ckptrun.criu.staging import Arena, Slot
    from ckptrun.supervisor.hooks import Around
    from ckptrun.supervisor.incarnation import Incarnation
    from ckptrun.supervisor.staged import LocalCopies, Staged
    from ckptrun.supervisor.tools import Tools


class Checkpointer:
    """Takes the checkpoints of one run, one at a time.

    Args:
        tools: see `Tools`.
        arena: where dumps go.
        copies: where complete ones are kept.
        max_freeze: seconds the job may be stopped.
        room: told how many bytes are coming; returns why they would not fit into the store, or "".
        stored: returns the file contents that the store has.
    """

    def __init__(
        self,
        tools: Tools,
        arena: Arena,
        copies: LocalCopies,
        max_freeze: float,
        room: Callable[[int], str],
        stored: Callable[[], Mapping[str, Source]],
    ) -> None:
        self._tools = tools
        self._arena = arena
        self._copies = copies
        self._max_freeze = max_freeze
        self._problems = Problems(tools.note)
        self._room = room
        self._stored = stored
        self._reins = Reins()
        self.last_size = 0
        self._brought = 0

    def begin(self) -> None:
        """Forget what was said about the dump before; call it before `take` is started in its thread."""
        self._reins = Reins()

    def take(self, command: TakeCheckpoint, incarnation: Incarnation) -> None:
        """Take a checkpoint and post how it went."""
        slot: Slot | None = None
        size = 0

        def hold(_: Slot) -> Slot:
            """Begin the hooks that hold somebody, and make room for what they have brought into the job's memory."""
            nonlocal slot
            hooks.open(lambda: order.reins.abandoned, holding=True)
            if hooks.bracket.is_open and slot and (more := self._outgrown(size, incarnation)):
                self._arena.give(slot)
                slot = None
                slot = self._slot(more)
            assert slot
            return slot

        try:
            hooks = self._tools.hooks.checkpoint(command, incarnation)
        except Exception as error:  # noqa: BLE001 - a dump is answered, whatever a hook that is to join lacks
            self._give_up(command, incarnation, error)
            return
        order = Order(
            command,
            incarnation,
            self._reins,
            self._max_freeze,
            self._stored,
            hold,
            functools.partial(self._keep, command, hooks),
            self._problems.tell,
        )
        attempt = Attempt(self._tools, order)
        try:
            size = job_memory(incarnation.pids()) + self._brought
            slot = self._slot(size)
            if self._tools.hooks.any:
                self._tools.binaries.look_for_gpus(incarnation.pids())
            hooks.open(lambda: order.reins.abandoned, holding=False)
            with self._tools.alone:
                attempt.run(slot)
        except Exception as error:  # noqa: BLE001 - a failed checkpoint never harms the job, whatever failed
            self._failed(order, attempt, slot, hooks, error)
        else:
            _close(hooks, None)  # of a job that was held

    def _failed(
        self, order: Order, attempt: Attempt, slot: Slot | None, hooks: Around, error: Exception
    ) -> None:
        reason = str(error) if isinstance(error, CkptrunError) else repr(error)
        _close(hooks, None if attempt.finished else reason)
        if attempt.finished:
            return  # a held job was killed or released after its dump had been reported
        if slot:
            self._arena.give(slot)
        self._give_up(order.command, order.incarnation, error)

    def _give_up(self, command: TakeCheckpoint, incarnation: Incarnation, error: Exception) -> None:
        """Post that no checkpoint came of it, and why."""
        reason = str(error) if isinstance(error, CkptrunError) else repr(error)
        now, checkpoint = time.monotonic(), command.id
        if incarnation.dead():  # whatever was noticed of it, CRIU's words or ours, is a consequence
            self._tools.post(DumpFailed(now, checkpoint, JOB_ENDED, job_ended=True))
            return
        self._tools.keep_log("dump", checkpoint)
        skipped = isinstance(error, _NoRoomError) or (isinstance(error, HookError) and error.skipped)
        later = error.retry_after if isinstance(error, HookError) else None
        self._tools.post(DumpFailed(now, checkpoint, reason, skipped=skipped, retry_after=later))

    def _slot(self, size: int) -> Slot:
        """Return an empty slot for a dump of about `size` bytes, warm."""
        self._check_room(size)
        slot = self._arena.take(size)
        slot.populate(size + SLACK)
        slot.touch(size + SLACK)
        return slot

    def _outgrown(self, size: int, incarnation: Incarnation) -> int:
        """Return the job's memory if hooks have brought more into it than `size` allows for: a GPU's, say; else 0."""
        now = job_memory(incarnation.pids())
        self._brought = max(0, now - (size - self._brought))
        return now if now > size + SLACK else 0

    def _check_room(self, size: int) -> None:
        if reason := self._room(size):
            raise _NoRoomError(reason)

    def _keep(self, command: TakeCheckpoint, hooks: Around, staged: Staged, retried: str) -> None:
        if not command.hold:  # a job that is held is thawed later, if ever
            hooks.close()
        staged = hooks.stored_with(staged)
        size = memory_bytes(staged.snapshot.streams)
        self.last_size = staged.slot.used
        self._copies.add(staged)
        self._tools.post(DumpFinished(time.monotonic(), command.id, staged.frozen_seconds, size, retried))

    @property
    def reins(self) -> Reins:
        """Those of the dump that was begun last."""
        return self._reins

    def release(self) -> None:
        """Let a held job run on."""
        self._reins.release()

    def abandon(self) -> None:
        """Give the running dump up at its next step."""
        self._reins.abandon()


def _close(hooks: Around, error: str | None) -> None:
    with contextlib.suppress(HookError):  # it is over: nothing is left to abort
        hooks.close(error)


class _NoRoomError(DumpError):
    """The store has no room for another checkpoint."""


def job_memory(pids: list[int]) -> int:
    """Return the bytes of memory of the job's own: anonymous and shared pages of every process, files' left out."""
    total = 0
    for pid in pids:
        with (
            contextlib.suppress(OSError),
            Path(f"/proc/{pid}/status").open(encoding="ascii", errors="replace") as file,
        ):
            for line in file:
                if line.startswith(("RssAnon:", "RssShmem:", "VmSwap:")):
                    total += int(line.split()[1]) * 1024
    return total
