"""One dump from its preparation to its report: file journal, CRIU, and what must be known about the freeze.

Made by `checkpointing` for each checkpoint, in its worker thread; `Reins` is how the loop reaches it meanwhile.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptrun.appstate.mark import Frozen as StateThen
from ckptrun.core.events import JOB_ENDED
from ckptrun.core.model import BytesSource, FileContent, Snapshot
from ckptrun.criu import dumping, engine, remedies
from ckptrun.criu.queues import BereftError, TornError
from ckptrun.errors import DumpError
from ckptrun.journal import records_to_json
from ckptrun.supervisor import affinity, compat
from ckptrun.supervisor.facts import HELPER_KEY, Facts
from ckptrun.supervisor.network import lock
from ckptrun.supervisor.staged import Staged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ckptrun.capsule.wiring import Position
    from ckptrun.core.commands import TakeCheckpoint
    from ckptrun.core.model import Source
    from ckptrun.criu.connections import End
    from ckptrun.criu.staging import Extents, Slot
    from ckptrun.journal import Frozen, Prepared
    from ckptrun.supervisor.binaries import Mapped
    from ckptrun.supervisor.incarnation import Incarnation
    from ckptrun.supervisor.tools import Tools

PRIVATE = "/dev/shm"  # noqa: S108 - the capsule's own
"""All of it travels with a checkpoint."""
SKIP_FLAG = "--skip-in-flight"
"""Has CRIU save a listening socket without the connections that wait at it."""
AGAIN_SECONDS = 0.05
"""How long a job runs on whose connection was just doing what cannot be saved."""


@dataclass(frozen=True, slots=True)
class _Moment:
    """What was true while the job was stopped."""

    position: Position
    files: Frozen
    monotonic: int
    boottime: int
    wall: float
    affinity: Mapping[str, Sequence[int]]
    state: StateThen


class Reins:
    """What the loop may still tell a dump that has begun; any thread."""

    def __init__(self) -> None:
        self._released = threading.Event()
        self._abandoned = threading.Event()

    def release(self) -> None:
        """Let a held job run on."""
        self._released.set()

    def abandon(self) -> None:
        """Give the dump up at its next step."""
        self._abandoned.set()
        self._released.set()

    @property
    def abandoned(self) -> bool:
        """Whether the dump is to be given up."""
        return self._abandoned.is_set()

    def wait(self, timeout: float) -> None:
        """Wait, with the job frozen, until it may run on."""
        self._released.wait(timeout)


@dataclass(frozen=True, slots=True)
class Order:
    """One checkpoint to take.

    Args:
        command: what the loop wants.
        incarnation: of which job.
        reins: see `Reins`.
        max_freeze: seconds the job may be stopped.
        stored: returns the file contents that the store has.
        hold: begins the hooks that hold somebody until the thaw; returns where the dump goes: a larger slot, if they
            have brought more than fits into this one.
        report: told once, of the complete dump, and why it was tried twice, if it was.
        tell: takes sentences for the user about files.
    """

    command: TakeCheckpoint
    incarnation: Incarnation
    reins: Reins
    max_freeze: float
    stored: Callable[[], Mapping[str, Source]]
    hold: Callable[[Slot], Slot]
    report: Callable[[Staged, str], None]
    tell: Callable[[Iterable[str]], None]


class Attempt:
    """One dump.

    Args:
        tools: see `Tools`.
        order: see `Order`.
    """

    def __init__(self, tools: Tools, order: Order) -> None:
        self.finished = False
        """Whether the dump was reported: a held job is killed or released only after that."""
        self._tools = tools
        self._order = order
        self._command = order.command
        self._incarnation = order.incarnation
        self._moment: _Moment | None = None
        self._place: engine.Place
        self._started = 0.0
        self._retried = ""
        self._prepared: Prepared
        self._mapped: Mapped
        self._stopped: list[tuple[End, End]] = []
        self._leaving: set[tuple[End, End]] = set()
        self._again = False
        self._lock = contextlib.ExitStack()

    def run(self, slot: Slot) -> None:
        """Dump into `slot` and report; once more if a connection was just doing what cannot be saved."""
        if self._order.reins.abandoned:  # another incarnation may be running already
            raise DumpError("the checkpoint was given up")
        flags = self._tools.network.dump_flags
        self._prepare(slot)
        larger = self._order.hold(slot)
        if larger is not slot:
            slot = larger
            self._prepare(slot)
        try:
            return self._dump(slot, flags)
        except (dumping.BusyError, TornError, BereftError) as error:
            if self.finished or self._order.reins.abandoned:
                raise
            self._stopped = error.ends if isinstance(error, TornError) else []
            self._retried = str(error)
            self._again = True
        time.sleep(AGAIN_SECONDS)
        slot.used = 0
        self._prepare(slot)
        return self._dump(slot, (*flags, SKIP_FLAG))

    def _prepare(self, slot: Slot) -> None:
        """Do everything that need not wait for the hooks that hold somebody: reading what files have, above all."""
        tools, incarnation = self._tools, self._incarnation
        assert incarnation.helper is not None
        if strays := incarnation.capsule.strays(incarnation.tree.root):
            raise DumpError(
                f"process {strays[0]} (as the job counts) is a daemon that the last restore left outside the tree; "
                "a checkpoint would lack it",
                hint="start such helpers without setsid, or from a process that stays alive",
            )
        folder = tools.workplace / "dump"
        engine.clean(folder)
        self._place = incarnation.place(tools.criu, folder)
        pids = incarnation.pids()
        if (hopeless := remedies.refusal(pids)) is not None:
            raise DumpError(hopeless.cause, hint=hopeless.remedy.remedy)
        tools.machine.know()
        stored = self._order.stored()
        self._mapped = tools.there(lambda: tools.binaries.mapped(pids))
        self._prepared = tools.there(lambda: tools.journal.prepare(pids, slot.put, stored))

    def _dump(self, slot: Slot, flags: tuple[str, ...]) -> None:
        tools, incarnation = self._tools, self._incarnation
        wiring = tools.streams.wiring
        assert wiring is not None
        hold = 0.0
        if self._command.hold and self._command.deadline is not None:
            hold = max(self._command.deadline - time.monotonic(), 1.0)
        request = dumping.DumpRequest(
            incarnation.tree.root,
            slot,
            sorted(wiring.names.values()),
            self._order.max_freeze,
            lambda images: self._frozen(slot, images),
            hold,
            flags,
            dead=incarnation.dead,
            pids=incarnation.pids,
            retrying=self._retrying,
        )
        self._started = time.monotonic()
        with self._lock:
            lock(self._stopped, self._lock)
            result = dumping.dump(
                self._place, request, incarnation.spawn_criu(tools.privilege.dumper, self._place)
            )
        if not self.finished:
            self._report(slot, result.images, result.frozen_seconds)

    def _retrying(self, why: str) -> None:
        if self._order.reins.abandoned:
            raise DumpError("the checkpoint was given up")
        self._retried = why

    def _frozen(self, slot: Slot, images: dict[str, Extents]) -> None:
        """Do what must be done while the job is stopped."""
        if self._order.reins.abandoned:
            raise DumpError("the checkpoint was given up")
        self._lock.close()  # every connection has been saved
        tools, incarnation = self._tools, self._incarnation
        pids = incarnation.pids()
        if (loss := remedies.silent_loss(pids)) is not None:
            raise dumping.KnownDumpError(loss)
        self._leaving = tools.network.look(pids, images)
        position = tools.streams.freeze()
        files = tools.there(lambda: tools.journal.capture(self._prepared, pids, slot.put, self._command.id))
        monotonic = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + incarnation.offsets.monotonic
        boottime = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + incarnation.offsets.boottime
        if incarnation.dead():
            raise DumpError(JOB_ENDED)  # /proc told less of it than CRIU has saved
        state = tools.state.freeze() if tools.state else StateThen()
        self._moment = _Moment(position, files, monotonic, boottime, time.time(), affinity.noted(pids), state)
        if self._command.hold:
            self._report(slot, images, time.monotonic() - self._started)
            self._order.reins.wait(self._hold_seconds())

    def _hold_seconds(self) -> float:
        deadline = self._command.deadline
        return max(deadline - time.monotonic(), 0.0) if deadline is not None else 3600.0

    def _report(self, slot: Slot, images: dict[str, Extents], frozen_seconds: float) -> None:
        staged = self._staged(slot, images, frozen_seconds)
        self._order.report(staged, self._retried)
        self.finished = True

    def _staged(self, slot: Slot, images: dict[str, Extents], frozen_seconds: float) -> Staged:
        tools, moment, helper = self._tools, self._moment, self._incarnation.helper
        assert moment is not None
        assert helper is not None
        tools.reader.check_connections(images)
        tools.reader.check_links(images, PRIVATE)
        tools.reader.check_mappings(images)
        tools.network.check_dump(images, self._leaving, again=self._again)
        mapped = self._mapped | tools.there(lambda: tools.binaries.mapped(self._incarnation.pids()))
        capture = tools.there(lambda: tools.journal.seal(moment.files))
        self._order.tell(capture.problems)
        facts = Facts(
            moment.position,
            tools.reader.last_pid(images),
            helper.digest,
            records_to_json(capture.records, capture.bytes_inside),
            moment.monotonic,
            moment.boottime,
            tools.privilege.kind,
            tools.privilege.uid,
            tools.network.dump_flags,
            compat.gather(
                tools.machine,
                mapped,
                apart={record.path for record in capture.records},
                registers=tools.reader.registers(images),
                portable=self._incarnation.portable,
            ),
            moment.affinity,
            tools.channel.facts(),
            self._command.trigger.value,
            state=moment.state.mark.to_json(),
            tree=self._incarnation.tree,
        )
        helper_content = FileContent(HELPER_KEY, BytesSource(helper.path.read_bytes()))
        snapshot = Snapshot(
            self._command.id,
            self._command.trigger,
            moment.wall,
            tools.reader.streams(images),
            (*capture.contents, helper_content, *moment.state.contents),
            facts.to_json(),
            self._command.metrics,
        )
        return Staged(snapshot, slot, facts, frozen_seconds, capture.inexact)
