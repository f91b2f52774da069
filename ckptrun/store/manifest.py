"""Manifests: everything one checkpoint consists of, and where it lies. Complete: there is no parent to look up.

Called by `writing`, `lineage` and `reading`. It must not know keys or backends: it is bytes to data and back.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import zstandard

from ckptrun.errors import CorruptError
from ckptrun.store import head as heads
from ckptrun.store.crypto import ID_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptrun.core.model import CheckpointRecord, Json

INLINE_ROWS = 16
"""A cell table's page of so few rows stands in the manifest itself: small streams then cost no extra read."""
INLINE = 0xFFFFFFFF
_HEAD = struct.Struct("<8sIII")
_MAGIC = b"CKPTMAN\x01"
_REF = struct.Struct(f"<{ID_SIZE}sIIIIQ")
_LEVEL = 3


class PageRef(NamedTuple):
    """Where one page of a cell table lies.

    Args:
        chunk: its id.
        pack: index into the manifest's packs; `INLINE`: in the manifest.
        offset: of its record in the pack, or of the page in the inline bytes.
        stored: bytes behind the record's header.
        raw: bytes of the page.
        content: bytes of the stream that it covers.
    """

    chunk: bytes
    pack: int
    offset: int
    stored: int
    raw: int
    content: int


@dataclass(frozen=True, slots=True)
class Content:
    """One stream or file of a checkpoint.

    Args:
        name: of the stream, or the file's key.
        size: bytes.
        space: the address space whose grid it is cut on; None if it is cut into pieces.
        first: index of its first page reference.
        pages: how many it has.
    """

    name: str
    size: int
    space: str | None
    first: int
    pages: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """One checkpoint.

    Args:
        record: as HEAD has it, but for the time of the commit and pins.
        streams: the process images.
        files: the journaled files.
        facts: what else a restore needs.
        packs: name and size in bytes of every pack referred to.
        refs: packed page references of all contents.
        inline: the pages that stand here.
    """

    record: CheckpointRecord
    streams: tuple[Content, ...]
    files: tuple[Content, ...]
    facts: Mapping[str, Json]
    packs: tuple[tuple[str, int], ...]
    refs: bytes
    inline: bytes

    def pages(self, content: Content) -> Iterator[PageRef]:
        """Yield the page references of a content, in order."""
        part = self.refs[content.first * _REF.size : (content.first + content.pages) * _REF.size]
        return (PageRef(*fields) for fields in _REF.iter_unpack(part))

    def encode(self) -> bytes:
        """Return the manifest's bytes, before they are sealed."""
        value = {
            "record": heads.record_to_json(self.record),
            "streams": [_content_to_json(c) for c in self.streams],
            "files": [_content_to_json(c) for c in self.files],
            "facts": dict(self.facts),
            "packs": [list(pack) for pack in self.packs],
        }
        text = json.dumps(value, separators=(",", ":")).encode()
        lengths = _HEAD.pack(_MAGIC, len(text), len(self.refs), len(self.inline))
        return lengths + zstandard.ZstdCompressor(level=_LEVEL).compress(text + self.refs + self.inline)


def decode(data: bytes) -> Manifest:
    """Return the manifest that was encoded.

    Raises:
        CorruptError: it does not parse.
    """
    try:
        text, refs, rest = _expanded(data)
        value = json.loads(rest[:text])
        manifest = Manifest(
            heads.record_from_json(value["record"]),
            tuple(_content_from_json(c) for c in value["streams"]),
            tuple(_content_from_json(c) for c in value["files"]),
            value["facts"],
            tuple((str(name), int(size)) for name, size in value["packs"]),
            rest[text : text + refs],
            rest[text + refs :],
        )
        _check(manifest)
    except (struct.error, zstandard.ZstdError, ValueError, KeyError, TypeError) as error:
        raise CorruptError(f"the manifest does not parse: {error!r}") from error
    return manifest


def _expanded(data: bytes) -> tuple[int, int, bytes]:
    """Return the lengths of the JSON and of the references, and the bytes of all parts."""
    magic, text, refs, inline = _HEAD.unpack_from(data)
    packed = data[_HEAD.size :]
    if magic != _MAGIC or zstandard.frame_content_size(packed) != text + refs + inline or refs % _REF.size:
        raise ValueError("wrong magic or lengths")
    return text, refs, zstandard.ZstdDecompressor().decompress(packed)


def encode_ref(ref: PageRef) -> bytes:
    """Return a page reference, packed."""
    return _REF.pack(*ref)


def _check(manifest: Manifest) -> None:
    for content in (*manifest.streams, *manifest.files):
        covered = 0
        for ref in manifest.pages(content):
            if ref.pack == INLINE:
                if ref.offset + ref.raw > len(manifest.inline):
                    raise ValueError("an inline page lies outside")
            elif ref.pack >= len(manifest.packs):
                raise ValueError("a page lies in an unknown pack")
            covered += ref.content
        if covered != content.size:
            raise ValueError(f"the pages of {content.name} do not cover it")


def _content_to_json(content: Content) -> list[Any]:
    return [content.name, content.size, content.space, content.first, content.pages]


def _content_from_json(value: list[Any]) -> Content:
    name, size, space, first, pages = value
    return Content(str(name), int(size), None if space is None else str(space), int(first), int(pages))
