"""Checkpoints read back: found, listed, with their values and writes, and what delta channels are built from."""

from __future__ import annotations

import itertools
from typing import NamedTuple

from langgraph.checkpoint.base import CheckpointTuple, get_checkpoint_id

from ckptrun.job import state
from ckptrun.job.adapters.langgraph import _clock, _rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable, Iterator, Mapping, Sequence

    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import CheckpointMetadata, DeltaChannelHistory
    from langgraph.checkpoint.serde.base import SerializerProtocol

_LOADED = 8
"""How many checkpoints are held at a time with all their values."""


class Place(NamedTuple):
    """Where a configuration points."""

    thread: str
    namespace: str

    @classmethod
    def of(cls, config: RunnableConfig) -> Place:
        """Return the thread, and the namespace or the root graph's."""
        named = config["configurable"]
        return cls(str(named["thread_id"]), named.get("checkpoint_ns", ""))

    def config(self, identity: str) -> RunnableConfig:
        """Return the configuration of a checkpoint there."""
        return {
            "configurable": {
                "thread_id": self.thread,
                "checkpoint_ns": self.namespace,
                "checkpoint_id": identity,
            }
        }


class Reader:
    """Reads the state with one serializer."""

    def __init__(self, serde: SerializerProtocol) -> None:
        self._serde = serde

    def get(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return the checkpoint that a configuration names, or the newest."""
        found = self._find(config)
        return self._load([found])[0] if found else None

    def pages(
        self,
        config: RunnableConfig | None,
        wanted: Mapping[str, Any] | None,
        before: RunnableConfig | None,
        limit: int | None,
    ) -> Iterator[list[CheckpointTuple]]:
        """Yield checkpoints, newest first, a few at a time."""
        matching = (
            row for row in _rows.checkpoints(_keys(config, before)) if self._matches(row, wanted or {})
        )
        size = _LOADED
        while True:
            size = size if limit is None else min(size, limit)
            page = list(itertools.islice(matching, size))
            if not page:
                return
            yield self._load(page)
            limit = None if limit is None else limit - len(page)

    def delta_history(
        self, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Go through the ancestors of a checkpoint, nearest first, until each channel's whole value is found."""
        wanted = set(channels)
        history: dict[str, DeltaChannelHistory] = {channel: {"writes": []} for channel in channels}
        found = self._find(config) if wanted else None
        for page in _rows.pages(_rows.ancestors(found) if found else []):
            self._collect(page, wanted, history)
            if not wanted:
                break
        for entry in history.values():
            entry["writes"].reverse()
        return history

    def versions(self, row: _rows.Checkpoint) -> dict[str, Any]:
        """Return the versions of a checkpoint's channels."""
        versions: dict[str, Any] = self._serde.loads_typed(row.body)["channel_versions"]
        return versions

    def metadata(self, row: _rows.Checkpoint) -> CheckpointMetadata:
        """Return a checkpoint's metadata."""
        metadata: CheckpointMetadata = self._serde.loads_typed(row.metadata)
        return metadata

    def _find(self, config: RunnableConfig) -> _rows.Checkpoint | None:
        place, identity = Place.of(config), get_checkpoint_id(config)
        newest = state.keys(_rows.checkpoint_folder(*place), reverse=True, limit=1)
        for key in newest:
            _clock.follow(_rows.identity_in(key))
        wanted = [_rows.checkpoint_key(*place, identity)] if identity else newest
        return next(_rows.checkpoints(wanted), None)

    def _matches(self, row: _rows.Checkpoint, wanted: Mapping[str, Any]) -> bool:
        if not wanted:
            return True
        metadata = self.metadata(row)
        return all(metadata.get(name) == value for name, value in wanted.items())

    def _load(self, found: Sequence[_rows.Checkpoint]) -> list[CheckpointTuple]:
        bodies = [self._serde.loads_typed(row.body) for row in found]
        keys = [_blob_keys(row, body["channel_versions"]) for row, body in zip(found, bodies)]
        blobs = state.get_many(list({key: None for known in keys for key in known.values()}))
        writes: dict[str, list[_rows.Write]] = {}
        for place, family in _by_place(found).items():
            pending = _rows.writes(*place, [row.identity for row in family])
            writes.update((row.key, pending[row.identity]) for row in family)
        for body, known in zip(bodies, keys):
            body["channel_values"] = {
                channel: self._value(blobs[key]) for channel, key in known.items() if key in blobs
            }
        return [
            CheckpointTuple(
                config=Place(row.thread, row.namespace).config(row.identity),
                checkpoint=body,
                metadata=self.metadata(row),
                parent_config=Place(row.thread, row.namespace).config(row.parent) if row.parent else None,
                pending_writes=[self._pending(write) for write in writes[row.key]],
            )
            for row, body in zip(found, bodies)
        ]

    def _collect(
        self,
        page: Sequence[_rows.Checkpoint],
        wanted: set[str],
        history: Mapping[str, DeltaChannelHistory],
    ) -> None:
        """Take the writes of some ancestors, last first, and whole values; what has one is not wanted any more."""
        keys = [_blob_keys(row, self.versions(row), wanted) for row in page]
        blobs = state.get_many([key for known in keys for key in known.values()])
        place = Place(page[0].thread, page[0].namespace)
        writes = _rows.writes(*place, [row.identity for row in page], wanted)
        for row, known in zip(page, keys):
            for write in reversed(writes[row.identity]):
                if write.channel in wanted:
                    history[write.channel]["writes"].append(self._pending(write))
            for channel, key in known.items():
                if channel in wanted and key in blobs:
                    history[channel]["seed"] = self._value(blobs[key])
                    wanted.discard(channel)

    def _value(self, data: bytes) -> Any:
        return self._serde.loads_typed(_rows.blob(data))

    def _pending(self, write: _rows.Write) -> tuple[str, str, Any]:
        return (write.task, write.channel, self._serde.loads_typed(write.value))


def _keys(config: RunnableConfig | None, before: RunnableConfig | None) -> Iterable[str]:
    """Return the keys of the checkpoints that are asked for, newest first."""
    end = get_checkpoint_id(before) if before else None
    last = _rows.ordered(end) if end else None
    only = get_checkpoint_id(config) if config else None
    named = config["configurable"] if config else {}
    if config and named.get("checkpoint_ns") is not None:
        place = Place.of(config)
        if not only:
            folder = _rows.checkpoint_folder(*place)
            return _rows.newest_first(folder, None if last is None else folder + last)
        found = [_rows.checkpoint_key(*place, only)]
    else:
        threads = [_rows.thread_folder(Place.of(config).thread)] if config else _rows.threads()
        found = [key for thread in threads for key in _rows.checkpoint_keys(thread)]
    names = ((_rows.identity_in(key), key) for key in found)
    kept = [
        (name, key)
        for name, key in names
        if (last is None or name < last) and (not only or name == _rows.ordered(only))
    ]
    return [key for _, key in sorted(kept, reverse=True)]


def _blob_keys(
    row: _rows.Checkpoint, versions: Mapping[str, Any], wanted: Iterable[str] | None = None
) -> dict[str, str]:
    """Return by channel where the values of a checkpoint lie."""
    return {
        channel: _rows.blob_key(row.thread, row.namespace, channel, version)
        for channel, version in versions.items()
        if wanted is None or channel in wanted
    }


def _by_place(found: Iterable[_rows.Checkpoint]) -> dict[Place, list[_rows.Checkpoint]]:
    families: dict[Place, list[_rows.Checkpoint]] = {}
    for row in found:
        families.setdefault(Place(row.thread, row.namespace), []).append(row)
    return families
