"""What a store and a run's diary say: ``ls``, ``show``, ``verify``, ``events``, as the contract's JSON.

Sizes in bytes, durations in seconds, times in RFC 3339. Nothing is written.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ckptrun.app.files import bytes_inside
from ckptrun.app.identity import this_owner
from ckptrun.app.stores import backend_of, existing_lineage, key_source, record_of
from ckptrun.core.model import RunState
from ckptrun.errors import CorruptError, UsageError, WrongKeyError
from ckptrun.store.lease import is_dead
from ckptrun.store.repository import Lineage, list_lineages
from ckptrun.supervisor.compat import Compat
from ckptrun.supervisor.control_client import is_live
from ckptrun.telemetry.events import FILE_NAME, follow_events, read_events, rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptrun.core.model import CheckpointRecord
    from ckptrun.settings import StoreSettings
    from ckptrun.store.repository import Head


def lineages(settings: StoreSettings) -> list[dict[str, Any]]:
    """Return the lineages of a store, by name; one that cannot be opened says why in ``problem``.

    Raises:
        StoreError: the store cannot be read.
    """
    backend = backend_of(settings)
    key = key_source(settings.key)
    return [_summary(settings, name, Lineage(backend, name, key)) for name in sorted(list_lineages(backend))]


def lineage(settings: StoreSettings, name: str) -> dict[str, Any]:
    """Return lineage ``name`` with its checkpoints, newest first.

    Raises:
        UsageError: the store has none of that name.
        WrongKeyError: it is encrypted with another key.
    """
    found = existing_lineage(settings, name)
    head = found.head()
    if head is None or not head.run.started:
        raise UsageError(f"lineage {name!r} has no run yet", hint="start it with 'ckptrun -- COMMAND'")
    return {
        "name": name,
        "store": settings.url,
        "command": list(head.run.command.argv),
        "cwd": head.run.command.cwd,
        "state": _state(settings, name, head),
        "exit": _exit(head),
        "epoch": head.epoch,
        "labels": dict(head.run.labels),
        "checkpoints": [
            _checkpoint(found, record, set_aside=record not in head.live) for record in head.checkpoints
        ],
    }


def verify(settings: StoreSettings, name: str, *, at: str | None, quick: bool) -> dict[str, Any]:
    """Read the chunks of checkpoint ``at``, or of all and of the job's state, back.

    Returns:
        ``checked_bytes``; ``bad``, a list of descriptions, empty if all is well.

    Raises:
        UsageError: no such lineage or checkpoint.
    """
    found = existing_lineage(settings, name)
    head = found.head()
    records = (record_of(found, name, at),) if at is not None else head.checkpoints if head else ()
    state = (head.state,) if at is None and head is not None and head.state is not None else ()
    checked, bad = 0, []
    for record in (*records, *state):
        report = found.verify(record, quick=quick)
        checked += report.checked_bytes
        bad += [f"{record.id}: {description}" for description in report.bad]
    return {"name": name, "checkpoints": len(records), "checked_bytes": checked, "bad": bad}


def events(settings: StoreSettings, name: str, *, follow: bool) -> Iterator[dict[str, Any]]:
    """Yield what happened to runs of ``name`` on this machine; with ``follow``, until the live run ends.

    Raises:
        UsageError: no run of that name was ever made here.
    """
    run_dir = settings.run_dir(name)
    path = run_dir / FILE_NAME
    if not path.exists() and not is_live(run_dir):
        raise UsageError(
            f"nothing is known on this machine of a run {name!r} in {settings.url}",
            hint="'ckptrun ls' shows the store's lineages",
        )
    return follow_events(path, lambda: is_live(run_dir)) if follow else read_events(path)


def _summary(settings: StoreSettings, name: str, found: Lineage) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": name,
        "store": settings.url,
        "state": None,
        "checkpoints": None,
        "set_aside": None,
        "newest": None,
        "bytes_stored": None,
        "exit": None,
    }
    try:
        head = found.head()
    except (WrongKeyError, CorruptError) as error:  # the others are still worth listing
        return {**row, "problem": error.message}
    if head is None or not head.run.started:
        return {**row, "problem": "no run yet"}
    records = head.checkpoints
    return {
        **row,
        "state": _state(settings, name, head),
        "checkpoints": len(records),
        "set_aside": len(records) - len(head.live),
        "newest": rfc3339((head.live or records)[0].created) if records else None,
        "bytes_stored": sum(record.stored_bytes for record in records),
        "exit": _exit(head),
    }


def _checkpoint(found: Lineage, record: CheckpointRecord, *, set_aside: bool) -> dict[str, Any]:
    state, compat, copied = "committed", None, 0
    try:
        stored = found.load(record)
        compat, copied = Compat.from_json(stored.facts.get("compat")).summary(), bytes_inside(stored)
    except CorruptError:
        state = "corrupt"
    return {
        "id": record.id,
        "seq": record.seq,
        "state": state,
        "set_aside": set_aside,
        "trigger": str(record.trigger),
        "created": rfc3339(record.created),
        "frozen_seconds": float(record.frozen_seconds),
        "memory_bytes": record.memory_bytes,
        "new_bytes": record.new_bytes,
        "stored_bytes": record.stored_bytes,
        "upload_seconds": float(record.upload_seconds),
        "files": record.files,
        "file_bytes_frozen": copied,
        "inexact": list(record.inexact),
        "pinned": record.pinned,
        "metric": dict(record.metrics) or None,
        "compat": compat,
        "labels": dict(record.labels),
    }


def _state(settings: StoreSettings, name: str, head: Head) -> str:
    """Return how the last run stands: one that its store calls running may have died since."""
    if head.run.state is not RunState.RUNNING and not head.run.ending:
        return str(head.run.state)
    if is_live(settings.run_dir(name)):
        return str(RunState.RUNNING)
    if head.owner is None:
        return str(RunState.INTERRUPTED)
    alive = head.lease_until_hint > time.time() and not is_dead(head.owner, this_owner())
    return str(RunState.RUNNING if alive else RunState.INTERRUPTED)


def _exit(head: Head) -> dict[str, Any] | None:
    return None if head.run.exit is None else {"by": head.run.exit.by, "code": head.run.exit.code}
