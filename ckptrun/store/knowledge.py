"""What a new writer learns from the checkpoints that are there: known chunks, packs in use. Called by `writer`."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptrun.errors import CorruptError
from ckptrun.store.index import Chunked, ChunkIndex
from ckptrun.store.manifest import INLINE
from ckptrun.store.pack import Location
from ckptrun.store.reading import read_page

if TYPE_CHECKING:
    from ckptrun.core.model import CheckpointRecord
    from ckptrun.store.api import Head
    from ckptrun.store.lineage import Lineage
    from ckptrun.store.reading import StoredCheckpoint

log = logging.getLogger("ckptrun.store")


def build_index(lineage: Lineage, head: Head) -> ChunkIndex:
    """Return the chunks of the newest readable checkpoint, and of the state: they need not be stored again.

    Raises:
        StoreUnreachableError: the store does not answer.
    """
    index = ChunkIndex()
    for record in head.checkpoints:
        try:
            _learn(index, lineage.load(record))
        except CorruptError as error:
            log.warning("checkpoint %s is not built upon: %s", record.id, error)
            index = ChunkIndex()
        else:
            break
    if head.state is not None:
        try:
            _learn(index, lineage.load(head.state))
        except CorruptError as error:
            log.warning("the state %s is not built upon: %s", head.state.id, error)
            return build_index(lineage, replace(head, state=None))
    if index.sizes:
        _distrust_damaged(index, lineage)
    return index


def packs_of(lineage: Lineage, record: CheckpointRecord) -> frozenset[str] | None:
    """Return the packs that a checkpoint refers to; None if its manifest is unreadable."""
    try:
        return frozenset(name for name, _ in lineage.load(record).manifest.packs)
    except CorruptError as error:
        log.warning("what checkpoint %s refers to is not known: %s", record.id, error)
        return None


def _learn(index: ChunkIndex, stored: StoredCheckpoint) -> None:
    manifest = stored.manifest
    index.sizes.update(manifest.packs)
    for number, content in enumerate((*manifest.streams, *manifest.files)):
        ids = bytearray()
        for page in manifest.pages(content):
            if page.pack != INLINE:
                pack = index.pack_number(manifest.packs[page.pack][0])
                index.add(page.chunk, Location(pack, page.offset, page.stored, page.raw))
            for row in read_page(manifest, stored.fetcher, page):
                ids += row.chunk
                if row.pack:
                    pack = index.pack_number(row.pack)
                    index.add(row.chunk, Location(pack, row.offset, row.stored, row.raw))
        if number >= len(manifest.streams):
            index.files[content.name] = Chunked(content.size, bytes(ids))


def _distrust_damaged(index: ChunkIndex, lineage: Lineage) -> None:
    """Do not build on packs that are gone or of another size; that one is merely not listed costs an upload only."""
    access = lineage.access()
    prefix = f"{access.name}/packs"
    listed = dict(access.backend.names(prefix))
    index.distrust(name for name, size in index.sizes.items() if listed.get(f"{prefix}/{name}") != size)
