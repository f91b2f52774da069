"""Runs a job: finds what is needed, takes the lineage, decides how to begin, and hands over to the supervisor."""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from ckptrun.app import places
from ckptrun.app.beginning import Beginning
from ckptrun.app.command import check_command, notices
from ckptrun.app.effects import check_ledger
from ckptrun.app.hooks import find_hooks
from ckptrun.app.identity import command_facts
from ckptrun.app.parts import Around, Found, assemble
from ckptrun.app.pods import attach, failures_told
from ckptrun.capsule import helper as helpers
from ckptrun.capsule.streams import Streams
from ckptrun.core.config import Config
from ckptrun.core.model import RunState
from ckptrun.core.plans import Resume, candidates
from ckptrun.core.retention import Keep
from ckptrun.criu import provision
from ckptrun.criu.images import ImageReader
from ckptrun.store.repository import RunInfo
from ckptrun.supervisor import control, pressure, privilege, requests, signals, workplace
from ckptrun.supervisor.dwelling import Here
from ckptrun.supervisor.ending import conclude
from ckptrun.supervisor.machine import check_level
from ckptrun.supervisor.network import Network
from ckptrun.supervisor.shell import Shell
from ckptrun.supervisor.vault import Vault
from ckptrun.telemetry.events import FILE_NAME, EventLog
from ckptrun.telemetry.speak import Speaker, say_logs

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptrun.core.plans import Plan
    from ckptrun.settings import RunSettings
    from ckptrun.store.repository import Lineage, Writer
    from ckptrun.supervisor.parts import Parts


def run(settings: RunSettings) -> int:
    """Run the job to its end and return the exit code of ckptrun.

    Raises:
        CkptrunError: the run could not begin.
    """
    with failures_told(settings):
        check_command(settings)
        started = Run(settings, _here(settings))
        code = started.run()
    if started.lingers():
        os._exit(code)  # a regular end waits for every thread, also for one that a hung store holds
    return code


def _here(settings: RunSettings) -> Around:
    """Return what a run finds around it whose job lives where ckptrun does.

    Raises:
        CkptrunError: see `privilege.find`.
    """
    speaker = Speaker(settings.verbosity, as_json=settings.log_format.value == "json")
    say_logs(speaker)
    streams = Streams(speaker.error)  # before anything is said: our own lines are then known as such
    who = privilege.find(os.environ, settings.user)
    may_filter = who.kind != privilege.USER
    return Around(speaker, streams, who, may_filter, dwelling=Here(who.guise))


class Run:
    """One run, being put together.

    Raises:
        CkptrunError: it cannot begin.
    """

    def __init__(self, settings: RunSettings, around: Around) -> None:
        if settings.portable_cpu:
            check_level(settings.portable_cpu)
        self.settings = settings
        self.around = around
        self.speaker = around.speaker
        criu = provision.find()
        reader = ImageReader(criu.pycriu_path)
        helper = helpers.find()
        network = Network(settings.tcp, reader)
        self.command = around.dwelling.there(lambda: command_facts(settings.command, settings.cwd))
        check_ledger(settings)
        hooks = find_hooks(settings.hooks, settings.environment, settings.cwd, helper)
        places.make_own(settings.run_dir)
        self.found = Found(criu, reader, network, helper, hooks, None)
        self.started = time.time()
        self.lingers: Callable[[], bool] = lambda: False

    def run(self) -> int:
        """Run the job; return the exit code of ckptrun.

        Raises:
            CkptrunError: it could not begin.
        """
        settings = self.settings
        control.refuse_second(settings.run_dir)  # also where a store out of reach cannot say so
        beginning = Beginning(settings, self.command, self._note, self.around.dwelling.there)
        lineage, writer = beginning.open_store()
        signals.block()  # until here, while a lease may be watched, they end ckptrun; no thread lives yet
        try:
            left = self.around.left is not None
            plan, notes = beginning.go_on(lineage, writer) if left else beginning.plan(lineage, writer)
        except BaseException:
            if writer:
                writer.release()
            raise
        for note in (*notes, *notices(settings)):
            self.speaker.say(note)
        found = replace(self.found, finished=_ended_well(writer))
        shell = Shell(
            self._config(),
            grace=settings.grace,
            forward_usr1=settings.forward_usr1,
            watch=self.around.watch,
        )
        self.around.ready(shell)
        place = workplace.make(dict(os.environ), settings.state_dir, self.around.workplace)
        diary = EventLog(settings.run_dir / FILE_NAME)
        detach = attach(settings, shell, diary, self.speaker)
        vault = Vault(
            lineage,
            writer,
            lambda: beginning.acquire_late(lineage, parts.state.fits),
            Keep(settings.keep_last),
            shell.post,
            self._note,
        )
        self.lingers = lambda: vault.busy
        parts = assemble(settings, self.around, found, shell, vault, place, diary)
        run = RunInfo(RunState.RUNNING, None, self.command, self.started, None, dict(settings.labels))
        self._tell_begin(diary, beginning.unusable)
        beginning.mark(finished=False)
        server = requests.serve(shell, parts, settings)
        stop = threading.Event()
        pressure.watch(lambda: shell.enqueue(shell.relieve), stop)
        parts.channel.start()
        try:
            fresh = not isinstance(plan, Resume)  # one that only ends has the state that the job has left
            self._find_state(parts, vault, lineage if writer else None, fresh=fresh)
            run = _as_it_ended(writer, diary) if plan is None else _lived(shell, parts, run, plan)
            conclude(parts, run, shell.incarnation, lambda: parts.state.end(lineage))
            beginning.mark(finished=run.state is RunState.FINISHED)
        finally:
            stop.set()
            shell.tell_end()
            server.close()
            parts.channel.close()
            parts.effects.close()
            parts.arena.close()
            detach()
            diary.close()
            for folder in (place, settings.run_dir / "tmp", settings.run_dir / "channel"):
                shutil.rmtree(folder, ignore_errors=True)
        assert run.exit is not None
        return run.exit.code

    def _tell_begin(self, diary: EventLog, unusable: str) -> None:
        settings = self.settings
        diary.emit("run", command=list(settings.command), pid=os.getpid(), store=settings.store_url)
        if unusable:
            diary.emit("store-unusable", reason=unusable)

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


def _lived(shell: Shell, parts: Parts, run: RunInfo, plan: Plan) -> RunInfo:
    """Have the job live to its end; return how the run ended."""
    parts.vault.start(run, fresh=not candidates(plan))
    finish = shell.run(parts, plan)
    return replace(run, state=finish.state, exit=finish.exit)


def _as_it_ended(writer: Writer | None, diary: EventLog) -> RunInfo:
    """Return the record of the run before this one, whose job had ended well."""
    assert writer is not None
    assert writer.previous is not None
    assert writer.previous.exit is not None
    diary.emit("run-ended", exit=asdict(writer.previous.exit), state=str(writer.previous.state))
    return writer.previous


def _ended_well(writer: Writer | None) -> bool | None:
    """Return whether the run before this one ended well; None if nobody knows."""
    if writer is None or writer.previous is None:
        return None
    return writer.previous.state is RunState.FINISHED
