"""Restores one checkpoint: facts, files, capsule, CRIU, proof of life.

Runs in a worker thread; answers each `RestoreJob` with RestoreSucceeded or RestoreFailed.
"""

from __future__ import annotations

import functools
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ckptrun.capsule import helper as helpers
from ckptrun.capsule.spec import Offsets
from ckptrun.capsule.visit import AtHome
from ckptrun.core.events import RestoreFailed, RestoreSucceeded
from ckptrun.criu import engine, identities, locks, restoring
from ckptrun.errors import (
    CkptrunError,
    ContainerGoneError,
    CorruptError,
    FencedError,
    HookError,
    LedgerLostError,
    LedgerUnavailableError,
    RestoreError,
    StoreFullError,
    StoreUnreachableError,
    UnfitError,
)
from ckptrun.journal import Kind, keep_tail, moved, populate, records_from_json, rollback
from ckptrun.supervisor import affinity, compat
from ckptrun.supervisor.attempt import PRIVATE
from ckptrun.supervisor.facts import HELPER_KEY, Facts
from ckptrun.supervisor.problems import Problems

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ckptrun.capsule.helper import Helper
    from ckptrun.core.commands import RestoreJob
    from ckptrun.core.model import Source
    from ckptrun.journal import FileRecord
    from ckptrun.supervisor.hooks import Around
    from ckptrun.supervisor.incarnation import Incarnation
    from ckptrun.supervisor.tools import Tools

AGAIN_AFTER = (0.1, 1.0, 2.0)
"""Seconds after which a restore whose connections the kernel got at first is tried again: unlocked, one in four is."""
RESTORE_SECONDS = 600.0
"""CRIU may take this long: reading a large job from a slow store."""
PROOF_SECONDS = 0.1
"""A restored tree that dies of a signal within this time was not restored; CRIU's zero exit is no proof."""


@dataclass(frozen=True, slots=True)
class Images:
    """A checkpoint as a restore needs it, wherever it lies."""

    facts: Facts
    created: float
    streams: Mapping[str, Source]
    files: Mapping[str, Source]


@dataclass(frozen=True, slots=True)
class Folders:
    """Where a restore puts things: what a rollback removes, carried helpers, the job's private TMPDIR.

    `own` are ckptrun's own paths, which no rollback touches.
    """

    aside: Path
    helpers: Path
    private_tmp: Path | None
    own: tuple[str, ...] = ()


class Restorer:
    """Restores checkpoints of one run.

    Args:
        tools: see `Tools`.
        folders: see `Folders`.
        fetch: returns a checkpoint by id, from local memory if asked to; raises CkptrunError.
        open_capsule: has the main thread make an incarnation's capsule.
        going_on: is told the id of a checkpoint once the job is being put back to it.
    """

    def __init__(
        self,
        tools: Tools,
        folders: Folders,
        fetch: Callable[[str, bool], Images],
        open_capsule: Callable[[Incarnation, Helper, Offsets | None], None],
        going_on: Callable[[str], None],
    ) -> None:
        self._tools = tools
        self._folders = folders
        self._fetch = fetch
        self._open_capsule = open_capsule
        self._going_on = going_on
        self._retried = ""
        self._hooks: Around | None = None

    def restore(self, command: RestoreJob, incarnation: Incarnation) -> None:
        """Restore and post how it went."""
        post, number, checkpoint = self._tools.post, command.incarnation, command.checkpoint
        self._retried = ""
        self._hooks = None
        try:
            self._tools.hooks.wait()
            self._tools.dwelling.await_(lambda: incarnation.condemned)
            with self._tools.alone:
                age, cut = self._restore(command, incarnation)
        except CkptrunError as error:
            self._clear(incarnation, str(error))
            self._tools.keep_log("restore", checkpoint)
            post(
                RestoreFailed(
                    time.monotonic(),
                    number,
                    checkpoint,
                    str(error),
                    corrupt=isinstance(error, CorruptError),
                    transient=isinstance(error, StoreUnreachableError | StoreFullError | ContainerGoneError)
                    or not self._tools.dwelling.present(),
                    unfit=isinstance(error, UnfitError | StoreFullError | LedgerLostError),
                    aborted=isinstance(error, HookError | LedgerUnavailableError | FencedError),
                )
            )
        except Exception as error:  # noqa: BLE001 - an older checkpoint may still do
            self._clear(incarnation, repr(error))
            post(RestoreFailed(time.monotonic(), number, checkpoint, repr(error)))
        else:
            post(RestoreSucceeded(time.monotonic(), number, age, cut, self._retried))
            incarnation.make_live()

    def _clear(self, incarnation: Incarnation, reason: str) -> None:
        """Leave nothing of a failed restore to the next one."""
        incarnation.destroy()
        self._tools.streams.incarnation_ended()  # of a capsule that had gone before its streams were made, too
        if self._hooks:
            self._hooks.close(reason)

    def _restore(self, command: RestoreJob, incarnation: Incarnation) -> tuple[float, int]:
        """Restore; return the checkpoint's age in seconds, and how many bytes of redirected output were cut off."""
        tools = self._tools
        images = self._fetch(command.checkpoint, command.local)
        facts = images.facts
        self._check(facts)
        held = locks.locks_of(tools.reader, images.streams, PRIVATE)
        tools.there(lambda: locks.wait(held, tools.note))
        self._inherit(facts, incarnation)
        self._hooks = tools.hooks.restore(command, incarnation, facts, images.created)
        self._hooks.open(lambda: incarnation.condemned)
        if incarnation.condemned:  # while hooks ran: files and effects stay as they are
            raise RestoreError("the run is over")
        if tools.state:
            tools.state.restoring(command.incarnation, command.checkpoint, facts.state, images.files)
        self._going_on(command.checkpoint)
        if tools.effects:
            tools.effects.restoring(command.incarnation, facts.channel)
        cut = self._bring_back(command, incarnation, images)
        self._hooks.close()
        return time.time() - images.created, cut

    def _bring_back(self, command: RestoreJob, incarnation: Incarnation, images: Images) -> int:
        """Roll the files back and have the job run again; return how many bytes of redirected output were cut off."""
        tools, facts = self._tools, images.facts
        tools.streams.rewind_input(facts.position)
        records = records_from_json(facts.journal)
        aside = self._folders.aside
        report = tools.there(
            lambda: rollback(
                records,
                lambda key: AtHome(images.files[key]),
                aside=aside,
                ignore=self._folders.own,
                since=tools.journal.since(command.checkpoint),
            )
        )
        Problems(tools.note).tell((*report.problems, *report.notes))
        cut = tools.streams.cut_back(
            facts.position, lambda path, size: keep_tail(Path(path), size, aside=aside)
        )
        self._empty_private_tmp()
        helper = helpers.carried(_content(images.files[HELPER_KEY]), self._folders.helpers)
        self._open_capsule(incarnation, helper, self._offsets(facts))
        Problems(tools.note).tell(self._populate(records, images, Path(incarnation.root())))
        tools.there(lambda: tools.journal.resume(records, command.checkpoint))
        others = moved(records, incarnation.root())
        self._run_criu(incarnation, identities.renamed(images.streams, others), facts)
        affinity.put_back(incarnation.pids(), facts.affinity)
        self._prove(incarnation)
        return cut

    def _populate(self, records: Sequence[FileRecord], images: Images, root: Path) -> tuple[str, ...]:
        """Fill the new capsule as the job's user, but for the folders there that are ckptrun's."""
        tools, owner = self._tools, self._tools.privilege.owner
        ours: list[FileRecord] = []
        if tools.dwelling.at_hand and owner:
            ours = [r for r in records if r.private and r.kind is Kind.DIRECTORY and r.uid != owner[0]]
        theirs = [record for record in records if record not in ours]
        problems = tools.there(lambda: populate(theirs, lambda key: AtHome(images.files[key]), root))
        return (*problems, *populate(ours, images.files.__getitem__, root))

    def _check(self, facts: Facts) -> None:
        """Refuse what cannot work before anything is touched."""
        ours = self._tools.privilege
        if (facts.privilege, facts.uid) != (ours.kind, ours.uid):
            raise UnfitError(
                f"it was made by a run of kind {facts.privilege!r} with uid {facts.uid}, "
                f"this one is of kind {ours.kind!r} with uid {ours.uid}",
                hint="run the command as the same user as before",
            )
        tools = self._tools
        tools.machine.know()
        for note in tools.there(lambda: compat.check(facts.compat, tools.machine, tools.binaries)):
            tools.note(note)

    def _inherit(self, facts: Facts, incarnation: Incarnation) -> None:
        """Note what the job was started with: it goes on with that, whatever the command says now."""
        asked, given = incarnation.portable, facts.compat.portable
        if asked and asked != given:
            how = f"with --portable-cpu {given}" if given else "without it"
            self._tools.note(
                f"--portable-cpu {asked} has no effect: the job was started {how} and goes on so"
            )
        incarnation.portable = given
        incarnation.tree = facts.tree

    def _offsets(self, facts: Facts) -> Offsets | None:
        """Where CRIU leaves the clocks alone, the capsule makes them go on from where they stood."""
        if not self._tools.privilege.unprivileged:
            return None
        return Offsets(
            facts.monotonic - time.clock_gettime_ns(time.CLOCK_MONOTONIC),
            facts.boottime - time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        )

    def _empty_private_tmp(self) -> None:
        folder, owner = self._folders.private_tmp, self._tools.privilege.owner
        if folder is not None:
            self._tools.there(lambda: make_private_tmp(folder, owner))

    def _run_criu(self, incarnation: Incarnation, streams: Mapping[str, Source], facts: Facts) -> None:
        tools = self._tools
        folder = tools.workplace / "restore"
        engine.clean(folder)
        place = incarnation.place(tools.criu, folder)
        wiring = tools.streams.rewire(facts.position)
        try:
            inherit = {facts.position.names[name]: fd for name, fd in wiring.ends.items()}
            spawn = incarnation.spawn_criu(tools.privilege.restorer, place)
            adopter = facts.tree.root if tools.reader.has_orphans(streams) else 0
            retrying = functools.partial(self._retrying, incarnation)
            incarnation.restoring()
            for pause in (*AGAIN_AFTER, None):
                try:
                    with tools.network.restoring(streams, facts.criu_flags) as (served, sentences):
                        request = restoring.RestoreRequest(
                            served, facts.last_pid, inherit, facts.criu_flags, retrying, adopter
                        )
                        restoring.restore(place, request, spawn, RESTORE_SECONDS)
                    break
                except restoring.LostRaceError:
                    if pause is None or incarnation.ended.wait(pause):
                        raise
                    incarnation.again()
                    engine.clean(folder)
            incarnation.restored()
            for sentence in sentences:
                tools.note(sentence)
        finally:
            tools.streams.wired()

    def _retrying(self, incarnation: Incarnation, why: str) -> None:
        incarnation.again()
        self._retried = why

    def _prove(self, incarnation: Incarnation) -> None:
        """Check that the tree lives and holds its streams."""
        incarnation.ended.wait(PROOF_SECONDS)
        status = incarnation.root_status
        if status is not None and os.WIFSIGNALED(status):
            raise RestoreError(f"the restored job died at once of signal {os.WTERMSIG(status)}")
        if status is None and incarnation.ended.is_set():
            raise RestoreError("the restored job's capsule ended at once")


def make_private_tmp(folder: Path, owner: tuple[int, int] | None) -> None:
    """Make the job's TMPDIR, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    if owner:
        os.chown(folder, *owner)


def _content(source: Source) -> bytes:
    return b"".join(bytes(piece) for piece in source.pieces())
