"""Runs a job: finds what is needed, takes the lineage, decides how to begin, and hands over to the supervisor."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ckptrun.app.identity import changed_files, command_facts, this_owner
from ckptrun.app.stores import backend_of, key_source
from ckptrun.capsule import helper as helpers
from ckptrun.capsule.streams import Streams
from ckptrun.core.config import Config
from ckptrun.core.events import Candidate, Fresh, Resume
from ckptrun.core.model import RunState
from ckptrun.core.resume import Flags, FreshStart, LastRun, Situation, decide
from ckptrun.core.retention import Keep
from ckptrun.criu import provision
from ckptrun.criu.images import ImageReader
from ckptrun.criu.staging import Arena, automatic_limit, available_memory
from ckptrun.errors import (
    CkptrunError,
    CommandNotFoundError,
    NoCheckpointError,
    NotExecutableError,
    StoreRefusedError,
    StoreUnreachableError,
    UsageError,
)
from ckptrun.journal import Journal, records_from_json
from ckptrun.store.repository import Lineage, RunInfo
from ckptrun.supervisor import privilege, requests, signals, workplace
from ckptrun.supervisor.checkpointing import Checkpointer, Tools
from ckptrun.supervisor.facts import Facts
from ckptrun.supervisor.incarnation import Job
from ckptrun.supervisor.restoring import Folders, Images, Restorer, make_private_tmp
from ckptrun.supervisor.shell import Parts, Shell
from ckptrun.supervisor.staged import LocalCopies
from ckptrun.supervisor.vault import Vault
from ckptrun.telemetry.events import FILE_NAME, EventLog
from ckptrun.telemetry.speak import Speaker

if TYPE_CHECKING:
    from ckptrun.settings import RunSettings
    from ckptrun.store.repository import Writer

RESERVE_BYTES = 64 << 20
"""A directory store's disk keeps this much free: a full disk hurts the job more than a missed checkpoint."""


def run(settings: RunSettings) -> int:
    """Run the job to its end and return the exit code of ckptrun.

    Raises:
        CkptrunError: the run could not begin.
    """
    signals.block()
    check_command(settings)
    return _Run(settings).run()


def check_command(settings: RunSettings) -> None:
    """Find out before anything is made whether the command can be started at all.

    Raises:
        CommandNotFoundError, NotExecutableError: as a shell's 127 and 126.
    """
    program = settings.command[0]
    path = settings.environment.get("PATH", os.defpath)
    if shutil.which(program, path=path) is not None or shutil.which(str(settings.cwd / program)) is not None:
        return
    if "/" in program and (settings.cwd / program).exists():
        raise NotExecutableError(f"{program} is not executable", hint="make it so (chmod +x), or name its interpreter")
    if "/" not in program and any((Path(folder) / program).is_file() for folder in path.split(":")):
        raise NotExecutableError(f"{program} is on PATH and not executable", hint="make it so (chmod +x)")
    raise CommandNotFoundError(f"there is no command {program}", hint="check its spelling and PATH")


class _Run:
    """One run, being put together."""

    def __init__(self, settings: RunSettings) -> None:
        self.settings = settings
        self.speaker = Speaker(settings.verbosity, as_json=settings.log_format.value == "json")
        self.criu = provision.find()
        self.helper = helpers.find()
        self.privilege = privilege.find(os.environ)
        self.command = command_facts(settings.command, settings.cwd)
        settings.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.started = time.time()

    def run(self) -> int:
        settings = self.settings
        lineage, writer = self._open_store()
        try:
            plan, notes = self._plan(lineage, writer)
        except BaseException:
            if writer:
                writer.release()
            raise
        for note in notes:
            self.speaker.say(note)
        shell = Shell(self._config(), grace=settings.grace, forward_usr1=settings.forward_usr1)
        place = workplace.make(dict(os.environ))
        diary = EventLog(settings.run_dir / FILE_NAME)
        vault = Vault(
            lineage, writer, lambda: self._acquire(lineage), Keep(settings.keep_last), shell.post, self._note
        )
        parts = self._parts(shell, vault, place, diary)
        run = RunInfo(RunState.RUNNING, None, self.command, self.started, None, dict(settings.labels))
        diary.emit("run", command=list(settings.command), pid=os.getpid(), store=settings.store_url)
        server = requests.serve(shell, parts, settings)
        try:
            vault.start(run)
            finish = shell.run(parts, plan)
            ended = replace(run, state=finish.state, exit=finish.exit, ended=time.time())
            vault.close(ended)
        finally:
            server.close()
            parts.arena.close()
            diary.close()
            shutil.rmtree(place, ignore_errors=True)
            shutil.rmtree(settings.run_dir / "tmp", ignore_errors=True)
        return finish.exit.code

    def _note(self, text: str) -> None:
        self.speaker.error(text)

    def _config(self) -> Config:
        settings = self.settings
        token = f"{secrets.token_hex(3)}-"
        return Config(token, settings.interval, settings.restart, settings.max_restarts)

    def _open_store(self) -> tuple[Lineage, Writer | None]:
        settings = self.settings
        if settings.store_url.startswith("file://"):
            Path(settings.store_url.removeprefix("file://")).mkdir(parents=True, exist_ok=True, mode=0o700)
        backend = backend_of(settings.store)
        seen = settings.run_dir / "seen"
        lineage = Lineage(backend, settings.name, key_source(settings.key), seen_path=seen)
        try:
            return lineage, self._acquire(lineage)
        except (StoreUnreachableError, StoreRefusedError) as error:
            if settings.require_store or seen.exists():
                raise
            self._note(f"{error}; the job runs without committed checkpoints until it can be reached")
            return lineage, None

    def _acquire(self, lineage: Lineage) -> Writer:
        return lineage.acquire(this_owner(), take_over=self.settings.take_over, command=self.command)

    def _plan(self, lineage: Lineage, writer: Writer | None) -> tuple[Fresh | Resume, list[str]]:
        settings = self.settings
        if writer is None:
            return Fresh(), []
        records = list(lineage.checkpoints())
        previous = writer.previous
        last = None
        changed: tuple[str, ...] = ()
        if previous is not None:
            words = " ".join(previous.command.argv)
            last = LastRun(previous.state, previous.exit, previous.command.digest, words)
            if previous.command.digest == self.command.digest and records:
                changed = changed_files(previous.command.files, settings.cwd, self._written(lineage))
        situation = Situation(settings.name, last, self.command.digest, changed, bool(records))
        if settings.at is not None:
            records = [record for record in records if record.id == settings.at]
            if not records:
                raise NoCheckpointError(f"lineage {settings.name!r} has no checkpoint {settings.at!r}")
        decision = decide(situation, Flags(settings.resume or settings.at is not None, settings.fresh))
        notes = [decision.note] if decision.note else []
        if isinstance(decision, FreshStart) or not records:
            if settings.at is not None:
                raise UsageError("--fresh and --at contradict each other")
            return Fresh(), notes
        newest_first = sorted(records, key=lambda record: -record.seq)
        return Resume(tuple(Candidate(record.id, record.seq) for record in newest_first)), notes

    def _written(self, lineage: Lineage) -> set[str]:
        """Return the files the job itself wrote, by the newest readable checkpoint."""
        for record in lineage.checkpoints():
            try:
                facts = Facts.from_json(lineage.load(record).facts)
                return {file.path for file in records_from_json(facts.journal)}
            except CkptrunError:
                continue
        return set()

    def _parts(self, shell: Shell, vault: Vault, place: Path, diary: EventLog) -> Parts:
        settings = self.settings
        private_tmp = settings.run_dir / "tmp" if settings.private_tmp else None
        if private_tmp:
            make_private_tmp(private_tmp, self.privilege.owner)
        job = Job(
            settings.command,
            settings.environment,
            str(settings.cwd),
            not settings.allow_io_uring and self.privilege.kind != privilege.USER,
            private_tmp,
            self.privilege,
        )
        streams = Streams(self._note)
        limit = automatic_limit(available_memory()) if settings.staging == "auto" else settings.staging
        arena = Arena(limit)
        copies = LocalCopies(arena)
        journal = Journal(
            settings.journal_limit,
            preserve=[str(path) for path in settings.preserve],
            private=["/dev/shm"],  # noqa: S108 - the capsule's own
            ignore=[f"{helpers.HIDDEN}/bin", str(settings.state_dir)],
        )
        reader = ImageReader(self.criu.pycriu_path)
        tools = Tools(self.criu, reader, self.privilege, streams, journal, place, settings.run_dir / "logs", shell.post, self._note)
        checkpointer = Checkpointer(tools, arena, copies, settings.max_freeze, self._room)
        folders = Folders(settings.run_dir / "aside", settings.state_dir / "helpers", private_tmp)

        def fetch(checkpoint: str, local: bool) -> Images:
            staged = copies.get(checkpoint) if local else None
            if staged is not None:
                streams_by_name = {stream.name: stream.data for stream in staged.snapshot.streams}
                return Images(staged.facts, streams_by_name, {file.key: file.data for file in staged.snapshot.files})
            stored = vault.load(checkpoint)
            return Images(
                Facts.from_json(stored.facts),
                {stream.name: stream.data for stream in stored.streams},
                {file.key: file.data for file in stored.files},
            )

        restorer = Restorer(tools, folders, fetch, shell.open_capsule)
        return Parts(
            job, self.helper, streams, checkpointer, restorer, copies, vault, arena, diary, self.speaker
        )

    def _room(self, size: int) -> str:
        """Say why `size` more bytes would not fit into a directory store; "" when they would."""
        url = self.settings.store_url
        if not url.startswith("file://"):
            return ""
        free = shutil.disk_usage(url.removeprefix("file://")).free
        if free >= size + RESERVE_BYTES:
            return ""
        return f"the store's disk is nearly full: {free >> 20} MiB free, the job has {size >> 20} MiB"
