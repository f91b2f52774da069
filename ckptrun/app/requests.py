"""What a command asks of a live run on this machine, and how a restore of choice is set up."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptrun.errors import ConfigurationError, NoCheckpointError
from ckptrun.settings import resolve_run
from ckptrun.supervisor.control_client import ask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptrun.settings import RunSettings, StoreSettings

ANSWER_SECONDS = 10.0
"""A supervisor's loop answers in milliseconds; this covers a machine that swaps."""

STATUS_FIELDS = (
    "pid",
    "job_pid",
    "incarnation",
    "uptime_seconds",
    "restarts",
    "last_failure",
    "next_checkpoint_seconds",
    "staging_bytes",
    "current",
    "held_back",
)


def status(settings: StoreSettings, name: str) -> dict[str, Any]:
    """Return how the live run of ``name`` is doing: the contract's fields, then what else it says.

    Raises:
        NoLiveRunError: there is none on this machine.
    """
    reply = ask(settings.run_dir(name), name, {"request": "status"}, timeout=ANSWER_SECONDS)
    return {**dict.fromkeys(STATUS_FIELDS), **reply}


def checkpoint(settings: StoreSettings, name: str, *, wait: bool) -> dict[str, Any]:
    """Ask for a checkpoint and return its ``id``; with ``wait``, once it is committed.

    Raises:
        NoLiveRunError: no run of ``name`` lives on this machine.
        DumpError: the checkpoint failed; the job runs on.
    """
    timeout = None if wait else ANSWER_SECONDS
    request = {"request": "checkpoint", "wait": wait}
    return {"id": None, **ask(settings.run_dir(name), name, request, timeout=timeout)}


def stop(settings: StoreSettings, name: str) -> dict[str, Any]:
    """Have the run checkpointed and stopped; return when it is, with the checkpoint's ``id``.

    Raises:
        NoLiveRunError: no run of ``name`` lives on this machine.
    """
    return {"id": None, **ask(settings.run_dir(name), name, {"request": "stop"}, timeout=None)}


def restore_settings(
    name: str, at: str | None, given: Mapping[str, Any], environ: Mapping[str, str], cwd: Path
) -> RunSettings:
    """Return the settings that run lineage ``name`` again from checkpoint ``at`` (None: the newest good one).

    The command and its directory are the lineage's own, as its store has them.

    Raises:
        UsageError: an option is wrong, or the store has no such lineage or checkpoint.
        NoCheckpointError: the lineage has none yet.
        ConfigurationError: the directory the command ran in is gone.
    """
    from ckptrun.app.stores import existing_lineage, record_of  # noqa: PLC0415 -- the other requests need no store

    settings = resolve_run((name,), {**given, "name": name}, environ, cwd)  # the command follows
    lineage = existing_lineage(settings.store, name)
    head = lineage.head()
    if head is None or not head.checkpoints:
        raise NoCheckpointError(
            f"lineage {name!r} has no checkpoint", hint="start it with 'ckptrun -- COMMAND'"
        )
    if at is None and not head.live:
        raise NoCheckpointError(
            f"every checkpoint of lineage {name!r} was set aside: by a run that began anew, or went back further",
            hint=f"choose one with --at ID; 'ckptrun show {name}' lists them",
        )
    if at is not None:
        record_of(lineage, name, at)
    command = head.run.command
    where = Path(command.cwd)
    if not where.is_dir():
        raise ConfigurationError(
            f"{where}, where {name!r} ran, is no directory here", hint="make it, then try again"
        )
    return dataclasses.replace(settings, command=command.argv, cwd=where, at=at, resume=True)
