"""What the store's tests share: owners, snapshots, and backends that fail on purpose."""

from __future__ import annotations

import functools
import itertools
import os
import random
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptrun.core.model import (
    PAGE_SIZE,
    BytesSource,
    FileContent,
    ImageStream,
    MemoryRuns,
    RunState,
    Snapshot,
    Trigger,
)
from ckptrun.store.lease import start_time
from ckptrun.store.repository import (
    Backend,
    CommandFacts,
    Keep,
    KeySource,
    Lineage,
    Owner,
    RunInfo,
    StoredCheckpoint,
    Writer,
    open_backend,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ckptrun.core.model import CheckpointRecord

COMMAND = CommandFacts(("python", "train.py"), "/home/ann", "digest", {"train.py": "abc"})
RUNNING = RunInfo(RunState.RUNNING, None, COMMAND, 1000.0, None, {"team": "red"})
BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
_sessions = itertools.count()


@dataclass(frozen=True)
class Place:
    """A store to test: how to open it, and its folder if it is a directory."""

    url: str
    endpoint: str | None = None
    folder: Path | None = None

    def open(self) -> Backend:
        """Return a backend; the same one in the same process, since S3 clients take long to make."""
        return _open(self.url, self.endpoint, os.getpid())


@functools.cache
def _open(url: str, endpoint: str | None, _: int) -> Backend:
    return open_backend(url, s3_endpoint_url=endpoint)


def owner(**changes: Any) -> Owner:
    """Return this process as an owner, under a session name of its own."""
    session = f"s{os.getpid()}x{next(_sessions)}"
    start = start_time(os.getpid())
    assert start is not None
    fields = {"boot_id": BOOT, "pid": os.getpid(), "start_time": start, "host": "host-a", "session": session}
    return Owner(**(fields | changes))


def acquire(lineage: Lineage, who: Owner | None = None, **how: Any) -> Writer:
    return lineage.acquire(
        who or owner(), **({"take_over": False, "command": COMMAND, "wait": no_wait} | how)
    )


def no_wait(seconds: float) -> None:
    raise AssertionError(f"waited {seconds} s")


def memory(name: str, pages: Mapping[int, bytes], space: str = "mm-1001") -> ImageStream:
    """Return a pages image of these pages, by page number."""
    starts, lengths = array("Q"), array("Q")
    for number in sorted(pages):
        assert len(pages[number]) == PAGE_SIZE
        if starts and number == starts[-1] + lengths[-1]:
            lengths[-1] += 1
        else:
            starts.append(number)
            lengths.append(1)
    data = b"".join(pages[number] for number in sorted(pages))
    return ImageStream(name, BytesSource(data), MemoryRuns(space, starts, lengths))


def image(name: str, data: bytes) -> ImageStream:
    return ImageStream(name, BytesSource(data))


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def noise_pages(first: int, count: int, seed: int = 0) -> dict[int, bytes]:
    data = noise(count * PAGE_SIZE, seed)
    return {first + i: data[i * PAGE_SIZE : (i + 1) * PAGE_SIZE] for i in range(count)}


def snapshot(
    name: str, *streams: ImageStream, files: Sequence[tuple[str, bytes]] = (), **facts: Any
) -> Snapshot:
    contents = tuple(FileContent(key, BytesSource(data)) for key, data in files)
    return Snapshot(name, Trigger.INTERVAL, 1234.5, streams, contents, facts)


def sample(name: str, seed: int = 0) -> Snapshot:
    """Return a checkpoint with memory, images and files."""
    return snapshot(
        name,
        memory("pages-1.img", noise_pages(0x400, 40, seed) | noise_pages(0x7F000, 5, seed + 1)),
        image("inventory.img", b"inventory"),
        image("core-1001.img", noise(70_000, seed + 2)),
        files=[("f-aa", b"line\n" * 300_000), ("f-bb", b"")],
        position=seed,
    )


def commit(writer: Writer, what: Snapshot, keep: int = 3, frozen: float = 0.25) -> CheckpointRecord:
    return writer.commit(writer.put(what, frozen_seconds=frozen), keep=Keep(keep))


def contents(stored: StoredCheckpoint) -> dict[str, bytes]:
    named = [(s.name, s.data) for s in stored.streams] + [(f.key, f.data) for f in stored.files]
    return {name: b"".join(source.pieces()) for name, source in named}


def expected(what: Snapshot) -> dict[str, bytes]:
    named = [(s.name, s.data) for s in what.streams] + [(f.key, f.data) for f in what.files]
    return {name: bytes(source.read(0, source.size)) for name, source in named}


def key_file(folder: Path, seed: int = 1) -> KeySource:
    path = folder / f"key-{seed}"
    path.write_bytes(noise(32, seed))
    return KeySource(key_file=path)


class Wrapped:
    """A backend that tells a hook before and after each write; the hook may raise, and then the caller sees that.

    Args:
        inner: does the work.
        hook: gets the operation, the object's name, and "before" or "after".
    """

    def __init__(self, inner: Backend, hook: Callable[[str, str, str], None]) -> None:
        self._inner = inner
        self._hook = hook

    def __getattr__(self, operation: str) -> Any:
        found = getattr(self._inner, operation)
        if operation not in ("put_if_absent", "replace", "delete"):
            return found

        def call(name: str, *rest: Any) -> Any:
            self._hook(operation, name, "before")
            result = found(name, *rest)
            self._hook(operation, name, "after")
            return result

        return call
