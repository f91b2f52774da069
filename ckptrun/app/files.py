"""The files of a checkpoint and what rollbacks kept: ``ckptrun files``.

Sizes in bytes, times in RFC 3339. The store is only read.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptrun.app.stores import existing_lineage, record_of
from ckptrun.errors import UsageError
from ckptrun.journal import listed, populate, records_from_json, rollback
from ckptrun.journal.record import Kind, printable
from ckptrun.telemetry.events import rfc3339

if TYPE_CHECKING:
    from ckptrun.core.model import Source
    from ckptrun.journal import FileRecord, SetAside
    from ckptrun.settings import StoreSettings
    from ckptrun.store.repository import Lineage, StoredCheckpoint


def files(settings: StoreSettings, name: str, *, at: str | None, extract: Path | None) -> dict[str, Any]:
    """Return the journaled files of a checkpoint, and what rollbacks on this machine have set aside.

    Args:
        settings: of the store.
        name: of the lineage.
        at: the checkpoint; the newest one if None.
        extract: an empty or missing folder to write the files into, each under its whole path.

    Returns:
        ``checkpoint``, its ``files``, ``bytes_inside`` (copied while the job was stopped), ``set_aside`` with its
        ``folder``, and ``problems``: a sentence for each file that could not be extracted as recorded.

    Raises:
        UsageError: no such lineage or checkpoint; the folder is not empty.
        CorruptError: what the checkpoint says does not parse, or a content is damaged.
    """
    lineage = existing_lineage(settings, name)
    stored = _checkpoint(lineage, name, at)
    journal = stored.facts["journal"]
    records = records_from_json(journal)
    aside = settings.run_dir(name) / "aside"
    return {
        "name": name,
        "checkpoint": stored.record.id,
        "files": [_record(record) for record in records if record.kind is not Kind.SKIPPED],
        "bytes_inside": bytes_inside(stored),
        "set_aside": [_set_aside(entry) for entry in listed(aside)],
        "folder": str(aside),
        "problems": _extract(records, stored, extract) if extract else [],
    }


def bytes_inside(stored: StoredCheckpoint) -> int:
    """Return the bytes of files that were copied while the job was stopped."""
    journal = stored.facts.get("journal")
    value = journal.get("bytes_inside", 0) if isinstance(journal, dict) else 0
    return value if isinstance(value, int) else 0


def _checkpoint(lineage: Lineage, name: str, at: str | None) -> StoredCheckpoint:
    if at is not None:
        return lineage.load(record_of(lineage, name, at))
    newest = next(iter(lineage.live() or lineage.checkpoints()), None)
    if newest is None:
        raise UsageError(f"lineage {name!r} has no checkpoint yet", hint=f"ckptrun checkpoint {name} --wait")
    return lineage.load(newest)


def _record(record: FileRecord) -> dict[str, Any]:
    return {
        "path": printable(record.path),
        "kind": record.kind.value,
        "size": record.size,
        "mode": f"{record.mode:04o}",
        "uid": record.uid,
        "gid": record.gid,
        "modified": rfc3339(record.mtime_ns / 1e9),
        "how": record.how.value,
        "exact": record.exact,
        "private": record.private,
    }


def _set_aside(entry: SetAside) -> dict[str, Any]:
    return {
        "id": entry.id,
        "path": printable(entry.path),
        "reason": entry.reason,
        "offset": entry.offset,
        "bytes": entry.bytes,
        "time": rfc3339(entry.time),
    }


def _extract(records: tuple[FileRecord, ...], stored: StoredCheckpoint, folder: Path) -> list[str]:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        empty = not any(folder.iterdir())
    except OSError as error:
        raise UsageError(f"{folder} cannot be used: {error.strerror}", hint="name a new folder") from error
    if not empty:
        raise UsageError(f"{folder} is not empty", hint="name a new folder")
    contents: dict[str, Source] = {file.key: file.data for file in stored.files}
    with tempfile.TemporaryDirectory(prefix="ckptrun-") as aside:
        report = rollback(records, contents.__getitem__, aside=Path(aside), root=folder)
    return [*report.problems, *populate(records, contents.__getitem__, folder)]
