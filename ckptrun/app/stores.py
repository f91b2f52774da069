"""Open what settings name: backends, keys, lineages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptrun.errors import UsageError
from ckptrun.settings import KeyKind
from ckptrun.store.repository import KeySource, Lineage, open_backend

if TYPE_CHECKING:
    from ckptrun.core.model import CheckpointRecord
    from ckptrun.settings import KeyChoice, StoreSettings
    from ckptrun.store.repository import Backend


def backend_of(settings: StoreSettings) -> Backend:
    """Return the store's backend; `StoreError` if it cannot be opened."""
    return open_backend(settings.url, s3_endpoint_url=settings.endpoint)


def existing_lineage(settings: StoreSettings, name: str) -> Lineage:
    """Return lineage ``name``.

    Raises:
        UsageError: the store has none of that name.
        StoreError: the store cannot be read.
    """
    lineage = Lineage(backend_of(settings), name, key_source(settings.key))
    if not lineage.exists():
        raise UsageError(
            f"there is no lineage {name!r} in {settings.url}", hint="'ckptrun ls' shows what there is"
        )
    return lineage


def record_of(lineage: Lineage, name: str, checkpoint: str) -> CheckpointRecord:
    """Return the record of ``checkpoint``.

    Raises:
        UsageError: the lineage has no such checkpoint.
    """
    for record in lineage.checkpoints():
        if record.id == checkpoint:
            return record
    raise UsageError(
        f"lineage {name!r} has no checkpoint {checkpoint!r}", hint=f"'ckptrun show {name}' lists them"
    )


def key_source(choice: KeyChoice) -> KeySource | None:
    """Return the store's view of a key choice; None for a plain lineage."""
    match choice.kind:
        case KeyKind.PASSPHRASE:
            return KeySource(passphrase=choice.passphrase)
        case KeyKind.FILE:
            return KeySource(key_file=choice.path)
        case _:
            return None
