"""Whole subtrees: walked for a checkpoint, and written into a new capsule: `populate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from ckptrun.core.model import Source
    from ckptrun.journal.record import FileRecord


def populate(records: Iterable[FileRecord], contents: Callable[[str], Source], root: Path) -> tuple[str, ...]:
    """Write the private trees of a checkpoint into a new capsule; records of other files are skipped.

    Args:
        records: of the checkpoint.
        contents: gives the content of a key.
        root: the capsule's root as the caller reaches it, as ``/proc/<init>/root``. The trees' roots exist there.

    Returns:
        A sentence for everything that is not as recorded.

    Raises:
        StoreFullError: the capsule's filesystem is full.
        CorruptError: a content does not have the bytes its key says.
    """
    raise NotImplementedError
