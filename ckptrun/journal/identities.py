"""Which files are others than they were, to a job that remembers its open files by device and inode.

SQLite does: a database whose name leads to another inode than the one opened counts as replaced, and is
written no more (in SQLite's default journal mode), or locked apart from a connection opened later. A rollback keeps
inodes where it can; on another machine, and in the capsule's own trees, files are others. What is returned here is
put right in the job's memory (`ckptrun.criu.identities`). Called before CRIU restores, with every file in its place.
"""

# Names are strings with surrogates here; Path would add nothing.
# ruff: noqa: PTH123

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptrun.journal.candidates import Ident
    from ckptrun.journal.record import FileRecord

MAGIC = b"SQLite format 3\0"
"""How a database begins. A library that keeps both numbers side by side as SQLite does can be added, with its test."""


def moved(records: Iterable[FileRecord], root: str) -> dict[Ident, Ident]:
    """Return device and inode at the freeze -> now, of the files that a job may take for replaced.

    Args:
        records: of the checkpoint.
        root: where the capsule's root directory is seen.
    """
    found: dict[Ident, Ident] = {}
    for record in records:
        if record.opened is None or not record.exact:
            continue
        try:
            now = os.lstat(root + record.path)
            if not stat.S_ISREG(now.st_mode) or (now.st_dev, now.st_ino) == record.opened:
                continue
            with open(root + record.path, "rb") as file:
                if file.read(len(MAGIC)) != MAGIC:
                    continue
        except OSError:
            continue  # the rollback has said what it could not bring back
        found[record.opened] = (now.st_dev, now.st_ino)
    return found
