"""Runs a job: finds what is needed, takes the lineage, decides how to begin, and hands over to the supervisor."""

from __future__ import annotations

import functools
import os
import secrets
import shutil
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptrun.app import places
from ckptrun.app.beginning import Beginning
from ckptrun.app.command import check_command, notices
from ckptrun.app.effects import check_ledger, wanted_ledger
from ckptrun.app.hooks import cuda_standby, find_hooks, run_hooks
from ckptrun.app.identity import command_facts
from ckptrun.capsule import helper as helpers
from ckptrun.capsule.streams import Streams
from ckptrun.core.config import Config
from ckptrun.core.events import Fresh
from ckptrun.core.model import RunState
from ckptrun.core.retention import Keep
from ckptrun.criu import provision
from ckptrun.criu.available import automatic_limit, available_memory
from ckptrun.criu.images import ImageReader
from ckptrun.criu.staging import Arena
from ckptrun.journal import Journal
from ckptrun.store.repository import RunInfo
from ckptrun.supervisor import control, pressure, privilege, rendezvous, requests, signals, workplace
from ckptrun.supervisor.binaries import Binaries
from ckptrun.supervisor.channel import Channel
from ckptrun.supervisor.checkpointing import Checkpointer
from ckptrun.supervisor.hooks import RunsHooks
from ckptrun.supervisor.incarnation import Job
from ckptrun.supervisor.jobcalls import JobCalls
from ckptrun.supervisor.jobstate import JobState
from ckptrun.supervisor.ledger import Effects
from ckptrun.supervisor.machine import Machine, check_level
from ckptrun.supervisor.network import Network
from ckptrun.supervisor.parts import Parts
from ckptrun.supervisor.rendezvous import Rendezvous
from ckptrun.supervisor.restoring import Folders, Images, Restorer, make_private_tmp
from ckptrun.supervisor.shell import Shell
from ckptrun.supervisor.staged import LocalCopies
from ckptrun.supervisor.statepage import StatePage
from ckptrun.supervisor.tools import Tools
from ckptrun.supervisor.vault import Vault
from ckptrun.supervisor.watching import watcher
from ckptrun.telemetry.events import FILE_NAME, EventLog
from ckptrun.telemetry.speak import Speaker, say_logs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckptrun.capsule.capsule import Capsule
    from ckptrun.settings import RunSettings
    from ckptrun.store.repository import Lineage, Writer


def run(settings: RunSettings) -> int:
    """Run the job to its end and return the exit code of ckptrun.

    Raises:
        CkptrunError: the run could not begin.
    """
    check_command(settings)
    if settings.portable_cpu:
        check_level(settings.portable_cpu)
    started = _Run(settings)
    code = started.run()
    if started.lingers():
        os._exit(code)  # a regular end waits for every thread, also for one that a hung store holds
    return code


class _Run:
    """One run, being put together."""

    def __init__(self, settings: RunSettings) -> None:
        self.settings = settings
        self.speaker = Speaker(settings.verbosity, as_json=settings.log_format.value == "json")
        say_logs(self.speaker)
        self.streams = Streams(self._note)  # before anything is said: our own lines are then known as such
        self.privilege = privilege.find(os.environ, settings.user)
        self.criu = provision.find()
        self.reader = ImageReader(self.criu.pycriu_path)
        self.network = Network(settings.tcp, self.reader)
        self.helper = helpers.find()
        self.command = command_facts(settings.command, settings.cwd)
        check_ledger(settings)
        self.hooks = find_hooks(settings.hooks, settings.environment, settings.cwd, self.helper)
        places.make_own(settings.run_dir)
        self.started = time.time()
        self.finished: bool | None = None
        self.lingers: Callable[[], bool] = lambda: False

    def run(self) -> int:
        settings = self.settings
        control.refuse_second(settings.run_dir)  # also where a store out of reach cannot say so
        beginning = Beginning(settings, self.command, self._note)
        lineage, writer = beginning.open_store()
        signals.block()  # until here, while a lease may be watched, they end ckptrun; no thread lives yet
        try:
            plan, notes = beginning.plan(lineage, writer)
        except BaseException:
            if writer:
                writer.release()
            raise
        for note in (*notes, *notices(settings)):
            self.speaker.say(note)
        self.finished = _ended_well(writer)
        shell = Shell(self._config(), grace=settings.grace, forward_usr1=settings.forward_usr1)
        place = workplace.make(dict(os.environ), settings.state_dir)
        diary = EventLog(settings.run_dir / FILE_NAME)
        keep = Keep(settings.keep_last)
        vault = Vault(
            lineage,
            writer,
            lambda: beginning.acquire_late(lineage, parts.state.fits),
            keep,
            shell.post,
            self._note,
        )
        self.lingers = lambda: vault.busy
        parts = self._parts(shell, vault, place, diary)
        run = RunInfo(RunState.RUNNING, None, self.command, self.started, None, dict(settings.labels))
        diary.emit("run", command=list(settings.command), pid=os.getpid(), store=settings.store_url)
        beginning.mark(finished=False)
        server = requests.serve(shell, parts, settings)
        stop = threading.Event()
        pressure.watch(lambda: shell.enqueue(shell.relieve), stop)
        parts.channel.start()
        try:
            self._find_state(parts, vault, lineage if writer else None, fresh=isinstance(plan, Fresh))
            vault.start(run, fresh=isinstance(plan, Fresh))
            finish = shell.run(parts, plan)
            parts.effects.finish(
                well=finish.state is RunState.FINISHED,
                hand_over=lambda: parts.hooks.hand_over(shell.incarnation),
            )
            ended = replace(run, state=finish.state, exit=finish.exit, ended=time.time())
            parts.state.close(stored=vault.close(ended, lambda: parts.state.end(lineage)))
            beginning.mark(finished=finish.state is RunState.FINISHED)
        finally:
            stop.set()
            shell.tell_end()
            server.close()
            parts.channel.close()
            parts.effects.close()
            parts.arena.close()
            diary.close()
            shutil.rmtree(place, ignore_errors=True)
            shutil.rmtree(settings.run_dir / "tmp", ignore_errors=True)
            shutil.rmtree(settings.run_dir / "channel", ignore_errors=True)
        return finish.exit.code

    def _find_state(self, parts: Parts, vault: Vault, lineage: Lineage | None, *, fresh: bool) -> None:
        """Have the job's state there before the job; the lineage is left as it was if that fails."""
        vault.hold()
        try:
            parts.state.begin(lineage, fresh=fresh)
        except BaseException:
            vault.give_back()
            raise

    def _note(self, text: str) -> None:
        self.speaker.error(text)

    def _config(self) -> Config:
        settings = self.settings
        token = f"{secrets.token_hex(3)}-"
        return Config(token, settings.interval, settings.restart, settings.max_restarts, grace=settings.grace)

    def _parts(self, shell: Shell, vault: Vault, place: Path, diary: EventLog) -> Parts:
        settings = self.settings
        private_tmp = settings.run_dir / "tmp" if settings.private_tmp else None
        if private_tmp:
            make_private_tmp(private_tmp, self.privilege.owner, self.privilege.guise)
        limit = automatic_limit(available_memory()) if settings.staging == "auto" else settings.staging
        arena = Arena(limit, spool=settings.run_dir)
        copies = LocalCopies(arena)
        journal = Journal(
            settings.journal_limit,
            preserve=[str(path) for path in settings.preserve],
            private=["/dev/shm"],  # noqa: S108 - the capsule's own
            ignore=[f"{helpers.HIDDEN}/bin", *rendezvous.OWN, str(settings.state_dir), str(place)],
            trail=settings.run_dir / "writes",
        )
        meeting = Rendezvous(settings.run_dir / "channel", self.privilege.owner, there=self.privilege.guise)
        meeting.make()
        channel = Channel(
            meeting,
            StatePage(meeting.page, secrets.token_hex(8), settings.name, self._note),
            self._note,
        )
        calls = JobCalls(channel, shell, os.environ.get("NOTIFY_SOCKET", ""))
        watch = watcher(journal, str(settings.cwd), self.speaker.say)

        def opened(root: str, capsule: Capsule) -> None:
            channel.opened(capsule.init_pid)
            watch(root, capsule)

        job = Job(
            settings.command,
            settings.environment,
            str(settings.cwd),
            not settings.allow_io_uring and self.privilege.kind != privilege.USER,
            private_tmp,
            self.privilege,
            settings.portable_cpu,
            opened,
            meeting.shared,
        )
        effects = Effects(
            wanted_ledger(
                settings,
                self.privilege,
                vault,
                self.finished,
                meeting.shared[rendezvous.SDK],
                takers=any(hook.messages for hook in self.hooks),
            ),
            shell,
            copies,
            self._note,
            diary.emit,
        )
        state = JobState(settings.run_dir / "state", copies, self._note)
        tools = Tools(
            self.criu,
            self.reader,
            self.network,
            self.privilege,
            self.streams,
            journal,
            Machine(self.criu, self.reader, place),
            Binaries(),
            place,
            settings.run_dir / "logs",
            shell.post,
            self._note,
            channel,
            RunsHooks(
                run_hooks(
                    self.hooks,
                    settings,
                    self.helper,
                    lambda: vault.epoch,
                    self._note,
                    diary.emit,
                    effects.messages,
                ),
                cuda_standby(self.hooks, settings.environment, settings.cwd, self.helper),
            ),
            effects,
            state,
            self.privilege.guise,
        )
        room = functools.partial(places.lacking_room, settings.store_directory)
        checkpointer = Checkpointer(tools, arena, copies, settings.max_freeze, room, vault.contents)
        folders = Folders(
            settings.run_dir / "aside",
            settings.state_dir / "helpers",
            private_tmp,
            (str(settings.state_dir), str(place)),
        )

        def fetch(checkpoint: str, local: bool) -> Images:
            found = places.images(checkpoint, copies if local else None, vault)
            channel.restoring(found.facts.channel)
            return found

        effects.attach(channel)
        state.attach(channel)
        restorer = Restorer(tools, folders, fetch, shell.open_capsule, vault.branches.go_on_from)
        return Parts(
            job,
            self.helper,
            self.streams,
            checkpointer,
            restorer,
            copies,
            vault,
            arena,
            diary,
            self.speaker,
            channel,
            tools.hooks,
            effects,
            state,
            calls,
        )


def _ended_well(writer: Writer | None) -> bool | None:
    """Return whether the run before this one ended well; None if nobody knows."""
    if writer is None or writer.previous is None:
        return None
    return writer.previous.state is RunState.FINISHED
