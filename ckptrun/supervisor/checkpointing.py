"""Takes one checkpoint: file journal, dump, and what must be known about the moment of the freeze.

Runs in a worker thread; answers each `TakeCheckpoint` with exactly one event.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ckptrun.capsule.capsule import ROOT_PID
from ckptrun.core.events import DumpFailed, DumpFinished
from ckptrun.core.model import BytesSource, FileContent, Snapshot
from ckptrun.criu import engine, remedies
from ckptrun.criu.images import TornError, memory_bytes
from ckptrun.criu.staging import SLACK
from ckptrun.errors import CkptrunError, DumpError
from ckptrun.journal import records_to_json
from ckptrun.supervisor import affinity, compat
from ckptrun.supervisor.facts import HELPER_KEY, Facts
from ckptrun.supervisor.network import lock
from ckptrun.supervisor.staged import Staged

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ckptrun.capsule.streams import Position, Streams
    from ckptrun.core.commands import TakeCheckpoint
    from ckptrun.core.events import Event
    from ckptrun.core.model import Source
    from ckptrun.criu.connections import End
    from ckptrun.criu.images import ImageReader
    from ckptrun.criu.program import Criu
    from ckptrun.criu.staging import Arena, Extents, Slot
    from ckptrun.journal import Frozen, Journal, Prepared
    from ckptrun.supervisor.binaries import Binaries, Mapped
    from ckptrun.supervisor.incarnation import Incarnation
    from ckptrun.supervisor.machine import Machine
    from ckptrun.supervisor.network import Network
    from ckptrun.supervisor.privilege import Privilege
    from ckptrun.supervisor.staged import LocalCopies

PRIVATE = "/dev/shm"  # noqa: S108 - the capsule's own
"""All of it travels with a checkpoint."""
SKIP_FLAG = "--skip-in-flight"
"""Has CRIU save a listening socket without the connections that wait at it."""
KEPT_LOGS = 8
"""CRIU logs of failed operations kept per lineage."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What every dump and restore of a run uses."""

    criu: Criu
    reader: ImageReader
    network: Network
    privilege: Privilege
    streams: Streams
    journal: Journal
    machine: Machine
    binaries: Binaries
    workplace: Path
    logs: Path
    post: Callable[[Event], None]
    note: Callable[[str], None]

    def keep_log(self, operation: str, checkpoint: str) -> None:
        """Keep CRIU's log of a failed operation, a few of the newest: ``ckptrun explain`` reads them."""
        log = self.workplace / operation / f"{operation}.log"
        with contextlib.suppress(OSError):
            self.logs.mkdir(mode=0o700, exist_ok=True)
            shutil.copyfile(log, self.logs / f"{operation}-{checkpoint}.log")
            for old in sorted(self.logs.iterdir(), key=lambda path: path.stat().st_mtime)[:-KEPT_LOGS]:
                old.unlink()


@dataclass(frozen=True, slots=True)
class _Moment:
    """What was true while the job was stopped."""

    position: Position
    files: Frozen
    monotonic: int
    boottime: int
    wall: float
    affinity: Mapping[str, Sequence[int]]


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
        self._room = room
        self._released = threading.Event()
        self._abandoned = threading.Event()
        self.stored = stored
        self.last_size = 0

    def begin(self) -> None:
        """Forget what was said about the dump before; call it before `take` is started in its thread."""
        self._released.clear()
        self._abandoned.clear()

    def take(self, command: TakeCheckpoint, incarnation: Incarnation) -> None:
        """Take a checkpoint and post how it went."""
        slot: Slot | None = None
        attempt = _Attempt(self, command, incarnation)
        try:
            size = job_memory(incarnation.pids())
            self._check_room(size)
            slot = self._arena.take(size)
            slot.populate(size + SLACK)
            slot.touch(size + SLACK)
            attempt.run(slot)
        except CkptrunError as error:
            self._failed(command, slot, attempt, str(error), skipped=isinstance(error, _NoRoomError))
        except Exception as error:  # noqa: BLE001 - a failed checkpoint never harms the job, whatever failed
            self._failed(command, slot, attempt, repr(error))

    def _failed(
        self,
        command: TakeCheckpoint,
        slot: Slot | None,
        attempt: _Attempt,
        reason: str,
        *,
        skipped: bool = False,
    ) -> None:
        if attempt.finished:
            return  # a held job was killed or released after its dump had been reported
        if slot:
            self._arena.give(slot)
        self._tools.keep_log("dump", command.id)
        self._tools.post(DumpFailed(time.monotonic(), command.id, reason, skipped=skipped))

    def _check_room(self, size: int) -> None:
        if reason := self._room(size):
            raise _NoRoomError(reason)

    def release(self) -> None:
        """Let a held job run on."""
        self._released.set()

    def abandon(self) -> None:
        """Give the running dump up at its next step."""
        self._abandoned.set()
        self._released.set()

    @property
    def abandoned(self) -> bool:
        """Whether the running dump is to be given up."""
        return self._abandoned.is_set()

    def wait_for_release(self, timeout: float) -> None:
        """Wait, with the job frozen, until it may run on."""
        self._released.wait(timeout)


class _NoRoomError(DumpError):
    """The store has no room for another checkpoint."""


class _Attempt:
    """One dump from its preparation to its report."""

    def __init__(self, owner: Checkpointer, command: TakeCheckpoint, incarnation: Incarnation) -> None:
        self.finished = False
        self._owner = owner
        self._tools = owner._tools  # noqa: SLF001 - one idea in two classes
        self._command = command
        self._incarnation = incarnation
        self._moment: _Moment | None = None
        self._place: engine.Place
        self._started = 0.0
        self._retried = ""
        self._prepared: Prepared
        self._mapped: Mapped
        self._stopped: list[tuple[End, End]] = []
        self._lock = contextlib.ExitStack()

    def run(self, slot: Slot) -> None:
        """Dump into `slot` and report; once more if a connection was just doing what cannot be saved."""
        flags = self._tools.network.dump_flags
        try:
            return self._run(slot, flags)
        except (engine.BusyError, TornError) as error:
            if self.finished or self._owner.abandoned:
                raise
            self._stopped = error.ends if isinstance(error, TornError) else []
            self._retried = str(error)
        slot.used = 0
        return self._run(slot, (*flags, SKIP_FLAG))

    def _run(self, slot: Slot, flags: tuple[str, ...]) -> None:
        tools, incarnation = self._tools, self._incarnation
        assert incarnation.helper is not None
        if strays := incarnation.capsule.strays():
            raise DumpError(
                f"process {strays[0]} (as the job counts) is a daemon that the last restore left outside the tree; "
                "a checkpoint would lack it",
                hint="start such helpers without setsid, or from a process that stays alive",
            )
        folder = tools.workplace / "dump"
        engine.clean(folder)
        self._place = engine.Place(
            tools.criu, folder, incarnation.helper.inside_path, tools.privilege.unprivileged
        )
        pids = incarnation.pids()
        if (hopeless := remedies.refusal(pids)) is not None:
            raise DumpError(hopeless.cause, hint=hopeless.remedy.remedy)
        tools.machine.know()
        self._mapped = tools.binaries.mapped(pids)
        self._prepared = tools.journal.prepare(pids, slot.put, self._owner.stored())
        wiring = tools.streams.wiring
        assert wiring is not None
        max_freeze = self._owner._max_freeze  # noqa: SLF001 - as above
        hold = 0.0
        if self._command.hold and self._command.deadline is not None:
            hold = max(self._command.deadline - time.monotonic(), 1.0)
        request = engine.DumpRequest(
            ROOT_PID,
            slot,
            sorted(wiring.names.values()),
            max_freeze,
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
            result = engine.dump(self._place, request, incarnation.spawn_criu(tools.privilege.dumper))
        if not self.finished:
            self._report(slot, result.images, result.frozen_seconds)

    def _retrying(self, why: str) -> None:
        if self._owner.abandoned:
            raise DumpError("the checkpoint was given up")
        self._retried = why

    def _frozen(self, slot: Slot, images: dict[str, Extents]) -> None:
        """Do what must be done while the job is stopped."""
        if self._owner.abandoned:
            raise DumpError("the checkpoint was given up")
        self._lock.close()  # every connection has been saved
        tools, incarnation = self._tools, self._incarnation
        pids = incarnation.pids()
        if (loss := remedies.silent_loss(pids)) is not None:
            raise DumpError(loss.cause, hint=loss.remedy.remedy)
        position = tools.streams.freeze()
        files = tools.journal.capture(self._prepared, pids, slot.put, self._command.id)
        monotonic = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + incarnation.offsets.monotonic
        boottime = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + incarnation.offsets.boottime
        self._moment = _Moment(position, files, monotonic, boottime, time.time(), affinity.noted(pids))
        if self._command.hold:
            self._report(slot, images, time.monotonic() - self._started)
            self._owner.wait_for_release(self._place_hold())

    def _place_hold(self) -> float:
        deadline = self._command.deadline
        return max(deadline - time.monotonic(), 0.0) if deadline is not None else 3600.0

    def _report(self, slot: Slot, images: dict[str, Extents], frozen_seconds: float) -> None:
        staged = self._staged(slot, images, frozen_seconds)
        size = memory_bytes(staged.snapshot.streams)
        self._owner.last_size = slot.used
        self._owner._copies.add(staged)  # noqa: SLF001 - as above
        self.finished = True
        self._tools.post(
            DumpFinished(time.monotonic(), self._command.id, frozen_seconds, size, self._retried)
        )

    def _staged(self, slot: Slot, images: dict[str, Extents], frozen_seconds: float) -> Staged:
        tools, moment, helper = self._tools, self._moment, self._incarnation.helper
        assert moment is not None
        assert helper is not None
        tools.reader.check_connections(images)
        tools.reader.check_links(images, PRIVATE)
        tools.network.check_dump(images)
        mapped = self._mapped | tools.binaries.mapped(self._incarnation.pids())
        capture = tools.journal.seal(moment.files)
        for problem in capture.problems:
            tools.note(problem)
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
        )
        helper_content = FileContent(HELPER_KEY, BytesSource(helper.path.read_bytes()))
        snapshot = Snapshot(
            self._command.id,
            self._command.trigger,
            moment.wall,
            tools.reader.streams(images),
            (*capture.contents, helper_content),
            facts.to_json(),
        )
        return Staged(snapshot, slot, facts, frozen_seconds, capture.inexact)


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
