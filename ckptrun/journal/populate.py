"""Writes the private trees of a checkpoint (TMPDIR, /dev/shm) into a new capsule: `populate`."""

# Names are strings with surrogates here, next to descriptors and raw calls; Path would add nothing.
# ruff: noqa: PTH108, PTH112

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from ckptrun.journal.filling import clear_leftover, room_for
from ckptrun.journal.record import Kind, printable
from ckptrun.journal.writing import in_order, make, make_parents, set_attributes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from ckptrun.core.model import Source
    from ckptrun.journal.record import FileRecord


def populate(records: Iterable[FileRecord], contents: Callable[[str], Source], root: Path) -> tuple[str, ...]:
    """Write the private trees of a checkpoint into a new capsule; records of other files are skipped.

    What stands there under a recorded name is overwritten, so that the call can be repeated.

    Args:
        records: of the checkpoint.
        contents: gives the content of a key.
        root: the capsule's root as the caller reaches it, as ``/proc/<init>/root``.

    Returns:
        A sentence for everything that is not as recorded.

    Raises:
        StoreFullError: the capsule's filesystem is full.
        CorruptError: a content does not have the bytes its key says.
    """
    prefix = os.fspath(root).rstrip("/")
    private = in_order(record for record in records if record.private and record.kind is not Kind.SKIPPED)
    problems: list[str] = []
    for record in private:
        if not record.exact:
            problems.append(f"{printable(record.path)} is not in the checkpoint")
            continue
        full = prefix + record.path
        try:
            _write(record, contents, full, prefix)
            if record.kind is not Kind.DIRECTORY and not record.link:
                problems += set_attributes(record, full)
        except OSError as error:
            problems.append(f"{printable(record.path)} cannot be written: {error.strerror}")
    for record in reversed(private):  # writing into a folder changes its time
        if record.kind is Kind.DIRECTORY and os.path.isdir(prefix + record.path):
            problems += set_attributes(record, prefix + record.path)
    return tuple(problems)


def _write(record: FileRecord, contents: Callable[[str], Source], full: str, prefix: str) -> None:
    make_parents(full, record)
    if record.kind is Kind.DIRECTORY and _is_folder(full):
        return
    clear_leftover(full)
    with suppress(FileNotFoundError):
        os.unlink(full)
    if record.link:
        with room_for(full):
            os.link(prefix + record.link, full, follow_symlinks=False)
    else:
        make(record, contents, full)


def _is_folder(full: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(full).st_mode)
    except FileNotFoundError:
        return False
