"""What is done to whole threads: copies, and what goes when checkpoints go. See `_rows`."""

from __future__ import annotations

from ckptrun.job import state
from ckptrun.job.adapters.langgraph import _rows as rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Collection, Iterable, Mapping

    Metadata = Callable[[rows.Checkpoint], Mapping[str, Any]]
    Versions = Callable[[rows.Checkpoint], Mapping[str, Any]]


def copy(source: str, target: str) -> None:
    """Copy a thread. Its checkpoints come last and at once, so that nobody finds one without its values."""
    if source == target:
        return
    old, new = rows.thread_folder(source), rows.thread_folder(target)
    found = rows.all_of_thread(old)
    for part in ("b/", "w/"):
        for page in rows.pages(state.keys(old + part)):
            values = state.get_many(page)
            state.put_many({new + key[len(old) :]: value for key, value in values.items()})
    copies = (row._replace(thread=target) for row in found)
    state.put_many({row.key: row.packed() for row in copies})


def drop(
    all_rows: Collection[rows.Checkpoint],
    unwanted: Callable[[rows.Checkpoint], bool],
    versions: Versions,
) -> None:
    """Delete checkpoints of one thread, with their writes and the values that no other checkpoint has.

    Those that stay lose a parent that goes. What is kept meanwhile by others stays, for only what the deleted ones
    refer to is looked at.

    Args:
        all_rows: all checkpoints of the thread.
        unwanted: which of them go.
        versions: returns a checkpoint's versions of its channels.
    """
    for family in by_namespace(all_rows).values():
        gone = [row for row in family if unwanted(row)]
        if not gone:
            continue
        kept = [row for row in family if not unwanted(row)]
        lost = {row.identity for row in gone}
        freed = {key for row in gone for key in _blobs(row, versions)}
        used = {key for row in kept for key in _blobs(row, versions)}
        orphans = [row._replace(parent="") for row in kept if row.parent in lost]
        writes = rows.write_keys(gone[0].thread, gone[0].namespace, list(lost))
        state.put_many(
            {row.key: row.packed() for row in orphans},
            delete=[*(row.key for row in gone), *writes, *(freed - used)],
        )


def keep_latest(thread: str, versions: Versions, metadata: Metadata) -> None:
    """Keep of each namespace of a thread the newest checkpoint, and those that its delta channels are built from."""
    all_rows = rows.all_of_thread(rows.thread_folder(thread))
    kept: set[str] = set()
    families = by_namespace(all_rows)
    saved = {row.identity for row in families.get("", [])}
    root = max(saved, default="")
    for namespace, family in families.items():
        head = max(family, key=lambda row: row.identity)
        start = metadata(head).get("parents", {}).get("")
        if ":" in namespace and start in saved and start != root:
            continue  # a finished call of a subgraph: its namespace ends with the task's name, and is not used again
        kept.add(head.key)
        kept.update(row.key for row in _foundation(head, family, versions, metadata))
    drop(all_rows, lambda row: row.key not in kept, versions)


def by_namespace(all_rows: Iterable[rows.Checkpoint]) -> dict[str, list[rows.Checkpoint]]:
    """Return a thread's checkpoints by their namespace."""
    found: dict[str, list[rows.Checkpoint]] = {}
    for row in all_rows:
        found.setdefault(row.namespace, []).append(row)
    return found


def _foundation(
    head: rows.Checkpoint,
    family: Iterable[rows.Checkpoint],
    versions: Versions,
    metadata: Metadata,
) -> list[rows.Checkpoint]:
    """Return the ancestors from whose writes LangGraph builds those channels that have no value in a checkpoint."""
    by_identity = {row.identity: row for row in family}
    delta = {name for row in by_identity.values() for name in metadata(row).get(_COUNTERS) or ()}
    missing = delta.intersection(versions(head))
    found: list[rows.Checkpoint] = []
    row: rows.Checkpoint | None = head
    while row is not None:
        has = versions(row)
        missing -= {name for name in missing if name in has and _there(_key(row, name, has[name]))}
        if not missing:
            break
        row = by_identity.pop(row.parent, None)
        if row is not None:
            found.append(row)
    return found


_COUNTERS = "counters_since_delta_snapshot"
"""Metadata that names the channels of which not every checkpoint has the value."""


def _there(key: str) -> bool:
    return state.keys(key, limit=1) == [key]


def _blobs(row: rows.Checkpoint, versions: Versions) -> list[str]:
    return [_key(row, channel, version) for channel, version in versions(row).items()]


def _key(row: rows.Checkpoint, channel: str, version: object) -> str:
    return rows.blob_key(row.thread, row.namespace, channel, version)
