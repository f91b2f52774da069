"""What the tests of the state share: logs, batches, and a run's `JobState` with nothing around it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from ckptrun.appstate.batch import Whole
from ckptrun.appstate.record import operations
from ckptrun.job._state_batch import batch

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from ckptrun.appstate.log import Log
    from ckptrun.appstate.mark import Frozen
    from ckptrun.core.model import Source

_identities = itertools.count()


def put(log: Log, values: Mapping[str, bytes], delete: Iterable[str] = (), identity: str = "") -> None:
    """Put into a log as the supervisor does."""
    whole = Whole(b"".join(batch(values, delete)))
    log.append(identity or f"request-{next(_identities)}", whole, list(operations(whole.read, 0, whole.size)))


def content(log: Log) -> dict[str, bytes]:
    """Return all entries, in order."""
    with log.lock:
        found = {key: log.index.entries[key] for key in log.index.beginning("")}
        assert len(found) == len(log.index.entries)
        return {key: log.read(entry, 0, entry.size) for key, entry in found.items()}


def files(frozen: Frozen) -> dict[str, Source]:
    return {file.key: file.data for file in frozen.contents}


def fill(log: Log, model: dict[str, bytes], chance: random.Random, count: int, size: int = 60) -> None:
    """Do `count` random things to a log, and the same to a dictionary."""
    for _ in range(count):
        key = f"{chance.choice('abc')}/{chance.randrange(12)}"
        other = f"{chance.choice('abc')}/{chance.randrange(12)}"
        value = chance.randbytes(chance.randrange(size))
        put(log, {key: value}, [other])
        model.pop(other, None)
        model[key] = value


def only_file(folder: Path) -> Path:
    (path,) = folder.glob("*.log")
    return path
