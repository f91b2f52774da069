"""Packs: some 32 MiB of chunks in one object, each behind a header, so that a pack can be walked without a manifest.

Called by `packing`, `fetching` and, later, the collector. It must not know what the chunks belong to.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from ckptrun.errors import CorruptError
from ckptrun.store.crypto import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

PACK_SIZE = 32 << 20
"""Bytes after which a pack is closed."""
MAGIC = b"CKPTPACK\x01\x00\x00\x00\x00\x00\x00\x00"
_RECORD = struct.Struct("<4sB3x32sII")
_RECORD_MAGIC = b"CHNK"
HEADER_SIZE = _RECORD.size


class Location(NamedTuple):
    """Where a chunk lies.

    Args:
        pack: number of the pack, as its keeper counts.
        offset: of the record's header, bytes.
        stored: bytes behind the header.
        raw: bytes of the chunk's content.
    """

    pack: int
    offset: int
    stored: int
    raw: int


class Record(NamedTuple):
    """One record of a pack; ``offset`` is that of its header."""

    kind: Kind
    chunk: bytes
    offset: int
    stored: bytes
    raw: int


def header(kind: Kind, chunk: bytes, stored: int, raw: int) -> bytes:
    """Return the header of a record: a chunk's kind and id, its stored and its raw size."""
    return _RECORD.pack(_RECORD_MAGIC, kind, chunk, stored, raw)


def body(data: memoryview, kind: Kind, chunk: bytes, stored: int, raw: int) -> memoryview:
    """Return what lies behind the header at the start of ``data``.

    Raises:
        CorruptError: it is another record, or it is cut off.
    """
    if data[:HEADER_SIZE] != header(kind, chunk, stored, raw) or len(data) < HEADER_SIZE + stored:
        raise CorruptError("the pack has something else there, or ends too early")
    return data[HEADER_SIZE : HEADER_SIZE + stored]


def walk(data: bytes) -> Iterator[Record]:
    """Yield the records of a whole pack; CorruptError where it stops making sense."""
    if not data.startswith(MAGIC):
        raise CorruptError("it does not begin like a pack")
    at = len(MAGIC)
    while at < len(data):
        try:
            magic, kind, chunk, stored, raw = _RECORD.unpack_from(data, at)
            known = Kind(kind)
        except (struct.error, ValueError) as error:
            raise CorruptError(f"no record at byte {at} of the pack") from error
        end = at + HEADER_SIZE + stored
        if magic != _RECORD_MAGIC or end > len(data):
            raise CorruptError(f"no whole record at byte {at} of the pack")
        yield Record(known, chunk, at, data[at + HEADER_SIZE : end], raw)
        at = end
