"""One record of the log: a batch, the id of the request that brought it, and a checksum. Bytes to data and back.

magic ``CKST``, CRC-32 u32 (of the batch, then of what follows here and the id), bytes of the batch u32, result u32,
bytes of the id u16, zero u16, little-endian; then the id and the batch (``ckptrun.job._state_batch``).
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

from ckptrun.job._state_batch import DELETE, DELETE_PREFIX, KEY_BYTES, OPERATION, PUT, VALUE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MAGIC = b"CKST"
_HEAD = struct.Struct("<4sI")
_REST = struct.Struct("<IIHH")
HEADER = _HEAD.size + _REST.size
PIECE = 1 << 20
"""Bytes read at a time."""


class Operation(NamedTuple):
    """One operation of a batch; ``at`` is where its value begins, counted like the batch itself."""

    kind: int
    key: str
    at: int
    size: int


class Record(NamedTuple):
    """One whole record: the id of its request, the result, where its batch lies, where the record ends."""

    identity: str
    result: int
    at: int
    size: int
    end: int


def header(identity: str, result: int, size: int, check: int) -> bytes:
    """Return what stands before a batch of `size` bytes whose CRC-32 is `check`."""
    name = identity.encode()
    rest = _REST.pack(size, result, len(name), 0) + name
    return _HEAD.pack(_MAGIC, zlib.crc32(rest, check)) + rest


def records(fd: int, at: int, end: int) -> Iterator[Record]:
    """Yield the records between two offsets, up to the first that is not whole and sound."""
    while at + HEADER <= end:
        head = os.pread(fd, HEADER, at)
        magic, check = _HEAD.unpack_from(head)
        size, result, length, _ = _REST.unpack_from(head, _HEAD.size)
        begin = at + HEADER + length
        if magic != _MAGIC or begin + size > end:
            return
        name = os.pread(fd, length, at + HEADER)
        if zlib.crc32(head[_HEAD.size :] + name, checksum(fd, begin, size)) != check:
            return
        yield Record(name.decode(), result, begin, size, begin + size)
        at = begin + size


def checksum(fd: int, at: int, size: int, check: int = 0) -> int:
    """Return the CRC-32 of bytes of a file, continued from `check`."""
    end = at + size
    while at < end:
        piece = os.pread(fd, min(PIECE, end - at), at)
        if not piece:
            break  # somebody has cut it
        check = zlib.crc32(piece, check)
        at += len(piece)
    return check


def operations(read: Callable[[int, int], bytes], at: int, size: int) -> Iterator[Operation]:
    """Yield the operations of a batch.

    Args:
        read: returns bytes: from where, how many.
        at: where the batch begins.
        size: its bytes.

    Raises:
        ValueError: it is none.
    """
    end = at + size
    while at < end:
        kind, length, value = OPERATION.unpack(_exactly(read, at, OPERATION.size))
        key = _exactly(read, at + OPERATION.size, length).decode()
        at += OPERATION.size + length
        if kind not in {PUT, DELETE, DELETE_PREFIX}:
            raise ValueError(f"there is no operation {kind}")
        if length > KEY_BYTES or not (length or kind == DELETE_PREFIX):
            raise ValueError(f"a key has {length} bytes")
        if value > VALUE_BYTES or (value and kind != PUT) or at + value > end:
            raise ValueError(f"a value has {value} bytes")
        yield Operation(kind, key, at, value)
        at += value


def _exactly(read: Callable[[int, int], bytes], at: int, size: int) -> bytes:
    data = read(at, size)
    if len(data) != size:
        raise ValueError("a batch ends in the middle of an operation")
    return data
