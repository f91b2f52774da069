"""HEAD as JSON and back. Called by `lineage`, `writer` and `manifest`. It must not know where HEAD lies."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any

from ckptrun.core.model import CheckpointRecord, Exit, RunState, Trigger
from ckptrun.errors import CorruptError
from ckptrun.store.api import CommandFacts, Head, Owner, RunInfo, Tombstone

VERSION = 1


def encode(head: Head) -> bytes:
    """Return HEAD's bytes, before they are sealed."""
    value = {
        "version": VERSION,
        "commit": head.commit,
        "epoch": head.epoch,
        "seq": head.seq,
        "owner": None if head.owner is None else asdict(head.owner),
        "lease_until_hint": head.lease_until_hint,
        "run": _run_to_json(head.run),
        "checkpoints": [record_to_json(record) for record in head.checkpoints],
        "tombstones": [[t.pack, t.since] for t in head.tombstones],
        "suspect": list(head.suspect),
        "state": None if head.state is None else record_to_json(head.state),
    }
    return json.dumps(value, separators=(",", ":")).encode()


def decode(data: bytes) -> Head:
    """Return the HEAD that was encoded.

    Raises:
        CorruptError: it does not parse.
    """
    try:
        value = json.loads(data)
        _check_version(value["version"])
        owner, state = value["owner"], value.get("state")
        return Head(
            int(value["epoch"]),
            int(value["seq"]),
            None if owner is None else Owner(**owner),
            float(value["lease_until_hint"]),
            _run(value["run"]),
            tuple(record_from_json(record) for record in value["checkpoints"]),
            tuple(Tombstone(str(pack), float(since)) for pack, since in value["tombstones"]),
            tuple(str(pack) for pack in value["suspect"]),
            str(value["commit"]),
            state=None if state is None else record_from_json(state),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptError(f"HEAD does not parse: {error!r}") from error


def record_to_json(record: CheckpointRecord) -> dict[str, Any]:
    """Return a record as JSON; times in seconds since the epoch."""
    value = {field.name: getattr(record, field.name) for field in fields(record)}
    return value | {
        "trigger": str(record.trigger),
        "inexact": list(record.inexact),
        "labels": dict(record.labels),
        "metrics": dict(record.metrics),
    }


def record_from_json(value: dict[str, Any]) -> CheckpointRecord:
    """Return the record; ValueError, KeyError or TypeError if it is none. What a later version adds is passed over."""
    known = {field.name: value[field.name] for field in fields(CheckpointRecord) if field.name in value}
    known |= {"trigger": Trigger(known["trigger"]), "inexact": tuple(known.get("inexact", ()))}
    return CheckpointRecord(**known)


def _check_version(version: Any) -> None:
    if version != VERSION:
        raise ValueError(f"it is of version {version}")


def _run_to_json(run: RunInfo) -> dict[str, Any]:
    command = run.command
    return {
        "state": str(run.state),
        "exit": None if run.exit is None else asdict(run.exit),
        "command": {
            "argv": list(command.argv),
            "cwd": command.cwd,
            "digest": command.digest,
            "files": dict(command.files),
        },
        "started": run.started,
        "ended": run.ended,
        "labels": dict(run.labels),
        "set_aside": list(run.set_aside),
    }


def _run(value: dict[str, Any]) -> RunInfo:
    command, end = value["command"], value["exit"]
    return RunInfo(
        RunState(value["state"]),
        None if end is None else Exit(**end),
        CommandFacts(tuple(command["argv"]), command["cwd"], command["digest"], command["files"]),
        float(value["started"]),
        None if value["ended"] is None else float(value["ended"]),
        value["labels"],
        tuple(str(checkpoint) for checkpoint in value.get("set_aside", ())),
    )
