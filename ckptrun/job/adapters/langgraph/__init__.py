"""LangGraph's checkpointer over ckptrun's store: ``builder.compile(checkpointer=CkptrunSaver())``.

The threads of an agent are stored with each process checkpoint, go back with the process, and are there in the next
run. docs/job.md teaches it; `_rows` says how they lie in the state. Needs ``langgraph-checkpoint``.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    get_checkpoint_id,
    get_checkpoint_metadata,
)

from ckptrun.job import _channel, _critical, _keys, state
from ckptrun.job._calls import checkpoint as take_checkpoint
from ckptrun.job._errors import UsageError
from ckptrun.job.adapters.langgraph import _rows, _threads
from ckptrun.job.adapters.langgraph._reading import Place, Reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import AsyncIterator, Iterator, Mapping, Sequence

    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import (
        ChannelVersions,
        Checkpoint,
        CheckpointMetadata,
        CheckpointTuple,
        DeltaChannelHistory,
    )
    from langgraph.checkpoint.serde.base import SerializerProtocol

__all__ = ["CkptrunSaver"]


class CkptrunSaver(BaseCheckpointSaver[str]):
    """A checkpointer whose threads live in `ckptrun.job.state`; for all threads and processes of a job.

    Without ckptrun it keeps them in the memory of the process, as LangGraph's ``InMemorySaver`` does.

    Args:
        serde: LangGraph's serializer; its default one uses no pickle.
        durable: have each `put` return only when a checkpoint of the job that holds it is committed in the store. This
            costs a checkpoint for each step of the graph. It cannot be had inside `ckptrun.job.critical` or an effect.
    """

    def __init__(self, *, serde: SerializerProtocol | None = None, durable: bool = False) -> None:
        super().__init__(serde=serde)
        self.durable = durable

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return the checkpoint that is asked for, or the newest of its thread and namespace; None if there is none."""
        return Reader(self.serde).get(config)

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Yield checkpoints, newest first: of one namespace, of a thread, or, with None, of all threads."""
        for page in Reader(self.serde).pages(config, filter, before, limit):
            yield from page

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Keep a checkpoint, and of its channels the values that are new; all or nothing.

        Raises:
            UsageError: ``durable`` inside a critical section or an effect.
            CheckpointFailedError: ``durable``, and no checkpoint of the job was committed; this one is kept.
        """
        if self.durable:
            _expect_no_section()
        place = Place.of(config)
        identity = checkpoint["id"]
        body: dict[str, Any] = dict(checkpoint)
        channels = body.pop("channel_values")
        values = {
            _rows.blob_key(*place, channel, version): _rows.packed_blob(
                self.serde.dumps_typed(channels[channel])
            )
            for channel, version in new_versions.items()
            if channel in channels
        }
        row = _rows.Checkpoint(
            *place,
            identity,
            get_checkpoint_id(config) or "",
            self.serde.dumps_typed(body),
            self.serde.dumps_typed(get_checkpoint_metadata(config, metadata)),
        )
        state.put_many({**values, row.key: row.packed()})
        if self.durable:
            take_checkpoint(wait=True)
        return place.config(identity)

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Keep what a task has written after a checkpoint, all or nothing.

        A write that is there already stays as it is, but for errors, interrupts and answers to them.
        """
        place = Place.of(config)
        identity = str(config["configurable"]["checkpoint_id"])
        there: set[str] = set()
        if any(channel not in WRITES_IDX_MAP for channel, _ in writes):
            folder = _rows.task_folder(*place, identity, task_id)
            there = {key[len(folder) :].partition("/")[0] for key in state.keys(folder)}
        values = {}
        for position, (channel, value) in enumerate(writes):
            slot = WRITES_IDX_MAP.get(channel, position)
            if slot < 0 or str(slot) not in there:
                row = _rows.Write(identity, task_id, task_path, slot, channel, self.serde.dumps_typed(value))
                values[row.key(*place)] = row.packed()
        if values:
            state.put_many(values)

    def delete_thread(self, thread_id: str) -> None:
        """Forget a thread; all of it at once."""
        state.delete_prefix(_rows.thread_folder(str(thread_id)))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Forget the checkpoints whose metadata has one of these as ``run_id``, and their writes; reads all threads."""
        runs = set(run_ids)
        if not runs:
            return
        reader = Reader(self.serde)
        for thread in _rows.threads():
            found = _rows.all_of_thread(thread)
            _threads.drop(found, lambda row: reader.metadata(row).get("run_id") in runs, reader.versions)

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all checkpoints and writes of a thread to another; its checkpoints appear there at once."""
        _threads.copy(str(source_thread_id), str(target_thread_id))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Forget some threads (``delete``), or all but the newest checkpoint of their namespaces (``keep_latest``).

        Where that one lacks the value of a ``DeltaChannel``, the checkpoints that lead to it are kept too. The
        namespaces of calls of subgraphs go with the checkpoint that they began from.

        Raises:
            ValueError: another strategy.
            TypeError: one thread's name in place of several.
        """
        if isinstance(thread_ids, str):
            raise TypeError("thread_ids is one text, not a sequence of threads; pass [thread_id]")
        if strategy not in {"keep_latest", "delete"}:
            raise ValueError(f"no way to prune: {strategy!r}; keep_latest and delete are")
        reader = Reader(self.serde)
        for name in map(str, thread_ids):
            if strategy == "delete":
                self.delete_thread(name)
            else:
                _threads.keep_latest(name, reader.versions, reader.metadata)

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Return what delta channels are built from: the last whole value before a checkpoint, and the writes since."""
        return Reader(self.serde).delta_history(config, channels)

    def get_next_version(self, current: str | int | None, channel: None) -> str:  # noqa: ARG002 - LangGraph's
        """Return a channel's next version: a greater one, and another one in each branch of a thread."""
        number = int(str(current).partition(".")[0]) if current else 0
        return f"{number + 1:032}.{int.from_bytes(os.urandom(7), 'big'):017}"

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Do as `get_tuple`, in another thread."""
        return await asyncio.to_thread(self.get_tuple, config)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Do as `list`, in another thread."""
        pages = Reader(self.serde).pages(config, filter, before, limit)
        while page := await asyncio.to_thread(next, pages, None):
            for found in page:
                yield found

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Do as `put`, in another thread."""
        return await asyncio.to_thread(self.put, config, checkpoint, metadata, new_versions)

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Do as `put_writes`, in another thread."""
        await asyncio.to_thread(self.put_writes, config, writes, task_id, task_path)

    async def adelete_thread(self, thread_id: str) -> None:
        """Do as `delete_thread`, in another thread."""
        await asyncio.to_thread(self.delete_thread, thread_id)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Do as `delete_for_runs`, in another thread."""
        await asyncio.to_thread(self.delete_for_runs, run_ids)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Do as `copy_thread`, in another thread."""
        await asyncio.to_thread(self.copy_thread, source_thread_id, target_thread_id)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Do as `prune`, in another thread."""
        await asyncio.to_thread(self.prune, thread_ids, strategy=strategy)

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Do as `get_delta_channel_history`, in another thread."""
        return await asyncio.to_thread(self.get_delta_channel_history, config=config, channels=channels)


def _expect_no_section() -> None:
    """Raise UsageError where a checkpoint would wait for what waits for it."""
    if _channel.under_ckptrun() and (_critical.around_critical() or _keys.inside.get() is not None):
        raise UsageError(
            "CkptrunSaver(durable=True) inside critical() or an effect would wait for its own end",
            "call the graph outside of it, or have it without durable",
        )
