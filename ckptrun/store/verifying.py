"""Reads a checkpoint back and says what is bad. Called by `lineage`. It repairs nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptrun.errors import CorruptError
from ckptrun.store.api import VerifyReport
from ckptrun.store.reading import read_page

if TYPE_CHECKING:
    from ckptrun.store.backend import Backend
    from ckptrun.store.manifest import Content
    from ckptrun.store.reading import StoredCheckpoint
    from ckptrun.store.tables import Row

WINDOW_ROWS = 16
"""Chunks read together: of several damaged ones among them, the first is reported."""


def unreadable(error: CorruptError) -> VerifyReport:
    """Return the report on a checkpoint whose manifest cannot be read."""
    return VerifyReport(0, (error.message,))


def verify(stored: StoredCheckpoint, backend: Backend, lineage: str, *, quick: bool) -> VerifyReport:
    """Return what reading the checkpoint back finds; ``quick``: cell tables and the packs' sizes only.

    Raises:
        StoreUnreachableError: the store does not answer.
    """
    bad: dict[str, None] = dict.fromkeys(_bad_packs(stored, backend, lineage))
    checked = 0
    manifest = stored.manifest
    for content in (*manifest.streams, *manifest.files):
        for page in manifest.pages(content):
            try:
                rows = list(read_page(manifest, stored.fetcher, page))
            except CorruptError as error:
                bad[_about(content, error)] = None
                continue
            checked += page.raw
            if not quick:
                checked += _verify_rows(stored, content, rows, bad)
    return VerifyReport(checked, tuple(bad))


def _verify_rows(stored: StoredCheckpoint, content: Content, rows: list[Row], bad: dict[str, None]) -> int:
    checked = 0
    for start in range(0, len(rows), WINDOW_ROWS):
        window = rows[start : start + WINDOW_ROWS]
        try:
            checked += sum(map(len, stored.fetcher.contents(window)))
        except CorruptError as error:
            bad[_about(content, error)] = None
    return checked


def _bad_packs(stored: StoredCheckpoint, backend: Backend, lineage: str) -> list[str]:
    prefix = f"{lineage}/packs"
    listed = dict(backend.names(prefix))
    bad = []
    for name, size in stored.manifest.packs:
        found = listed.get(f"{prefix}/{name}")
        if found is not None and found != size:
            bad.append(f"{stored.fetcher.where(name)} has {found} bytes and should have {size}")
        elif found is None:
            try:
                backend.get_range(f"{prefix}/{name}", 0, 1)
            except CorruptError as error:
                bad.append(error.message)
    return bad


def _about(content: Content, error: CorruptError) -> str:
    return f"{content.name}: {error.message}"
