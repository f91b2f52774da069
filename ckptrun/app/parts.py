"""Puts a run together: everything that the shell drives, for a job that lives here or in another container."""

from __future__ import annotations

import functools
import os
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptrun.app import places
from ckptrun.app.effects import wanted_ledger
from ckptrun.app.hooks import cuda_standby, run_hooks
from ckptrun.capsule import helper as helpers
from ckptrun.criu.available import automatic_limit, available_memory
from ckptrun.criu.staging import Arena
from ckptrun.journal import Journal
from ckptrun.supervisor import handover, rendezvous, signals
from ckptrun.supervisor.binaries import Binaries
from ckptrun.supervisor.channel import Channel
from ckptrun.supervisor.checkpointing import Checkpointer
from ckptrun.supervisor.dwelling import Here
from ckptrun.supervisor.handover import Standing
from ckptrun.supervisor.hooks import RunsHooks
from ckptrun.supervisor.job import Job
from ckptrun.supervisor.jobcalls import JobCalls
from ckptrun.supervisor.jobstate import JobState
from ckptrun.supervisor.ledger import Effects
from ckptrun.supervisor.machine import Machine
from ckptrun.supervisor.parts import Parts
from ckptrun.supervisor.rendezvous import Rendezvous
from ckptrun.supervisor.restoring import Folders, Images, Restorer, make_private_tmp
from ckptrun.supervisor.staged import LocalCopies
from ckptrun.supervisor.statepage import StatePage
from ckptrun.supervisor.tools import Tools
from ckptrun.supervisor.watching import watcher

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckptrun.capsule.capsule import Capsule
    from ckptrun.capsule.helper import Helper
    from ckptrun.capsule.streams import Streams
    from ckptrun.criu.images import ImageReader
    from ckptrun.criu.program import Criu
    from ckptrun.hooking.contract import Hook
    from ckptrun.settings import RunSettings
    from ckptrun.supervisor.dwelling import Dwelling
    from ckptrun.supervisor.handover import Handover
    from ckptrun.supervisor.network import Network
    from ckptrun.supervisor.privilege import Privilege
    from ckptrun.supervisor.shell import Shell
    from ckptrun.supervisor.vault import Vault
    from ckptrun.telemetry.events import EventLog
    from ckptrun.telemetry.speak import Speaker


@dataclass(frozen=True, slots=True)
class Around:
    """What a run finds around it.

    Args:
        speaker: ckptrun's voice.
        streams: the job's.
        privilege: as whom the job and CRIU run.
        may_filter: whether the job can be given a filter.
        workplace: where the folder for sockets and logs is made; None: where there is room.
        dwelling: where the job lives.
        watch: has signals told, to whoever is given last.
        ready: told of the shell before the run begins.
        left: the job runs already, or has ended: an earlier process has started it.
    """

    speaker: Speaker
    streams: Streams
    privilege: Privilege
    may_filter: bool
    workplace: Path | None = None
    dwelling: Dwelling = field(default_factory=Here)
    watch: Callable[[Callable[[int, bool], None]], None] = signals.watch
    ready: Callable[[Shell], None] = lambda _shell: None
    left: Handover | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What was found for a run before it took its lineage."""

    criu: Criu
    reader: ImageReader
    network: Network
    helper: Helper
    hooks: tuple[Hook, ...]
    finished: bool | None


def assemble(
    settings: RunSettings,
    around: Around,
    found: Found,
    shell: Shell,
    vault: Vault,
    place: Path,
    diary: EventLog,
) -> Parts:
    """Return the parts of a run; `place` is its folder for sockets and logs."""
    note, who, dwelling = around.speaker.error, around.privilege, around.dwelling
    private_tmp = settings.run_dir / "tmp" if settings.private_tmp else None
    if private_tmp and not around.left:
        dwelling.there(lambda: make_private_tmp(private_tmp, who.owner))
    limit = automatic_limit(available_memory()) if settings.staging == "auto" else settings.staging
    arena = Arena(limit, spool=settings.run_dir)
    copies = LocalCopies(arena)
    journal = Journal(
        settings.journal_limit,
        preserve=[str(path) for path in settings.preserve],
        private=["/dev/shm"],  # noqa: S108 - the capsule's own
        ignore=[f"{helpers.HIDDEN}/bin", *rendezvous.OWN, str(settings.state_dir), str(place)],
        trail=settings.run_dir / "writes",
        user=who.modest,
    )
    meeting = Rendezvous(settings.run_dir / "channel", who.owner, there=dwelling.there)
    if around.left:
        meeting.keep()
    else:
        meeting.make()
    channel = Channel(
        meeting,
        StatePage(meeting.page, secrets.token_hex(8), settings.name, note),
        note,
    )
    calls = JobCalls(channel, shell, os.environ.get("NOTIFY_SOCKET", ""))
    watch = watcher(
        journal, str(settings.cwd), around.speaker.say, around.left.supervisor if around.left else 0
    )

    def opened(root: str, capsule: Capsule) -> None:
        channel.opened(capsule.top_pid)
        watch(root, capsule)

    job = Job(
        settings.command,
        settings.environment,
        str(settings.cwd),
        not settings.allow_io_uring and around.may_filter,
        private_tmp,
        who,
        settings.portable_cpu,
        opened,
        meeting.shared,
        dwelling,
    )
    effects = Effects(
        wanted_ledger(
            settings,
            who,
            vault,
            found.finished,
            meeting.shared[rendezvous.SDK],
            takers=any(hook.messages for hook in found.hooks),
        ),
        shell,
        copies,
        note,
        diary.emit,
    )
    state = JobState(settings.run_dir / "state", copies, note)
    tools = Tools(
        found.criu,
        found.reader,
        found.network,
        who,
        around.streams,
        journal,
        Machine(found.criu, found.reader, place),
        Binaries(),
        place,
        settings.run_dir / "logs",
        shell.post,
        note,
        channel,
        RunsHooks(
            run_hooks(
                found.hooks,
                settings,
                found.helper,
                lambda: vault.epoch,
                note,
                diary.emit,
                effects.messages,
            ),
            cuda_standby(found.hooks, settings.environment, settings.cwd, found.helper),
        ),
        effects,
        state,
        dwelling,
    )
    room = functools.partial(places.lacking_room, settings.store_directory)
    checkpointer = Checkpointer(tools, arena, copies, settings.max_freeze, room, vault.contents)
    folders = Folders(
        settings.run_dir / "aside",
        settings.state_dir / "helpers",
        private_tmp,
        (str(settings.state_dir), str(place), *dwelling.closed),
    )

    def fetch(checkpoint: str, local: bool) -> Images:
        stored = places.images(checkpoint, copies if local else None, vault)
        channel.restoring(stored.facts.channel)
        return stored

    standing = Standing(settings.run_dir / handover.FILE_NAME, around.streams, shell.after)
    channel.on_first(standing.spoken)
    effects.attach(channel)
    state.attach(channel)
    restorer = Restorer(tools, folders, fetch, shell.open_capsule, vault.branches.go_on_from)
    return Parts(
        job,
        found.helper,
        around.streams,
        checkpointer,
        restorer,
        copies,
        vault,
        arena,
        diary,
        around.speaker,
        channel,
        tools.hooks,
        effects,
        state,
        calls,
        standing,
    )
