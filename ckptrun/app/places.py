"""The places that a run uses: its own folder, the room on its store's disk, and where its checkpoints lie."""

from __future__ import annotations

import shutil
import tempfile
from typing import TYPE_CHECKING

from ckptrun.errors import ConfigurationError
from ckptrun.supervisor.facts import Facts
from ckptrun.supervisor.restoring import Images
from ckptrun.supervisor.workplace import PROBE_BYTES

if TYPE_CHECKING:
    from pathlib import Path

    from ckptrun.supervisor.staged import LocalCopies
    from ckptrun.supervisor.vault import Vault

RESERVE_BYTES = 64 << 20
"""A directory store's disk keeps this much free: a full disk hurts the job more than a missed checkpoint."""


def make_own(folder: Path) -> None:
    """Make the run's directory, and see that something can be written into it.

    Raises:
        ConfigurationError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(PROBE_BYTES))
    except OSError as error:
        raise ConfigurationError(
            f"ckptrun keeps a run's state in {folder}, where nothing can be written: {error.strerror}",
            hint="set XDG_STATE_HOME to a folder that can be written",
        ) from error


def lacking_room(place: Path | None, size: int) -> str:
    """Say why `size` more bytes would not fit into the directory of a store; "" when they would."""
    if place is None:
        return ""
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free >= size + RESERVE_BYTES:
        return ""
    return f"the store's disk is nearly full: {free >> 20} MiB free, the job has {size >> 20} MiB"


def images(checkpoint: str, copies: LocalCopies | None, vault: Vault) -> Images:
    """Return a checkpoint as a restore needs it: from local memory, unless `copies` is None or has it not.

    Raises:
        CkptrunError: the store has it not, or it cannot be read.
    """
    staged = copies.get(checkpoint) if copies else None
    if staged is not None:
        streams_by_name = {stream.name: stream.data for stream in staged.snapshot.streams}
        files = {file.key: file.data for file in staged.snapshot.files}
        return Images(staged.facts, staged.snapshot.created, streams_by_name, files)
    stored = vault.load(checkpoint)
    return Images(
        Facts.from_json(stored.facts),
        stored.record.created,
        {stream.name: stream.data for stream in stored.streams},
        {file.key: file.data for file in stored.files},
    )
