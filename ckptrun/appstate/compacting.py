"""A log without what has been replaced or deleted: another generation with the live entries only.

Called in a thread of its own: the log can be written meanwhile, and what was is taken over at the end.
"""

from __future__ import annotations

import os
import zlib
from typing import TYPE_CHECKING

from ckptrun.appstate.files import Held, copy, write
from ckptrun.appstate.index import Entry, Index
from ckptrun.appstate.record import HEADER, Operation, header, operations, records
from ckptrun.job._state_batch import ENTRY_BYTES, OPERATION, PUT

if TYPE_CHECKING:
    from ckptrun.appstate.log import Log

LEAST_GARBAGE = 8 << 20
"""Bytes below which a log is left as it is."""
ROUND_BYTES = 4 << 20
"""Live entries that are copied as one record."""
_RECORD = HEADER + 28 + OPERATION.size
"""What stands around a key and a value that were put alone: about."""


def wasteful(log: Log) -> bool:
    """Whether more than half of the log is garbage, and more than a little."""
    live = log.index.used - len(log.index.entries) * (ENTRY_BYTES - _RECORD)
    return log.size - live > max(live, LEAST_GARBAGE)


def compact(log: Log) -> bool:
    """Make the log smaller; return whether it was, and not gone back meanwhile.

    Raises:
        OSError: there is no room for that, or the log cannot be read; it is as before.
    """
    with log.lock:
        before, size = log.generation, log.size
        entries, requests = dict(log.index.entries), list(log.index.requests.items())
        old = log.file
    if old is None:
        return False
    generation, new = log.created()
    taken_over = False
    try:
        index, end = _write_live(old, new, entries)
        for identity, result in requests:
            end = _write_record(new.fd, end, b"", identity, result)
            index.remember(identity, result)
        with log.lock:
            if log.generation == before:
                copy(old.fd, size, new.fd, end, log.size - size)
                end = _take_rest(new, index, end, end + log.size - size)
                log.replace(generation, new, end, index)
                taken_over = True
    finally:
        if not taken_over:
            log.unlink(generation)
    return taken_over


def _write_live(old: Held, new: Held, entries: dict[str, Entry]) -> tuple[Index, int]:
    index, end = Index(), 0
    batch, changes = bytearray(), list[Operation]()
    for key, entry in entries.items():
        name = key.encode()
        batch += OPERATION.pack(PUT, len(name), entry.size) + name
        changes.append(Operation(PUT, key, len(batch), entry.size))
        data = os.pread(old.fd, entry.size, entry.at)
        if len(data) != entry.size:
            raise OSError("the log of the job's state was cut while it was compacted")
        batch += data
        if len(batch) >= ROUND_BYTES:
            end = _write_round(new, index, end, batch, changes)
    if batch:
        end = _write_round(new, index, end, batch, changes)
    return index, end


def _write_round(new: Held, index: Index, end: int, batch: bytearray, changes: list[Operation]) -> int:
    """Write some live entries as one record; return where it ends."""
    after = _write_record(new.fd, end, batch, "", 0)
    index.apply(changes, after - len(batch))
    batch.clear()
    changes.clear()
    return after


def _write_record(fd: int, at: int, batch: bytes | bytearray, identity: str, result: int) -> int:
    head = header(identity, result, len(batch), zlib.crc32(batch))
    write(fd, at, head)
    write(fd, at + len(head), bytes(batch))
    return at + len(head) + len(batch)


def _take_rest(new: Held, index: Index, at: int, end: int) -> int:
    """Have the index know what was written meanwhile; return where it ends."""
    for record in records(new.fd, at, end):
        index.apply(list(operations(lambda at, size: os.pread(new.fd, size, at), record.at, record.size)))
        index.remember(record.identity, record.result)
        at = record.end
    if at != end:
        raise OSError("what was written into the job's state while it was compacted does not parse")
    return at
