"""The file journal: the files a job writes, captured as of the freeze and rolled back before a restore.

The supervisor calls `Journal` around a dump, `rollback` and `populate` before a restore; this package knows
neither CRIU nor the store. What is exact, and what not yet: ``docs/design/journal.md``.
"""

from __future__ import annotations

from ckptrun.journal.aside import ASIDE_LIMIT, SetAside, listed
from ckptrun.journal.capture import Journal
from ckptrun.journal.captured import Capture, Frozen, Prepared
from ckptrun.journal.identities import moved
from ckptrun.journal.populate import populate
from ckptrun.journal.record import FileRecord, How, Kind, Part, records_from_json, records_to_json
from ckptrun.journal.rollback import RollbackReport, keep_tail, rollback
from ckptrun.journal.taking import Put

__all__ = [
    "ASIDE_LIMIT",
    "Capture",
    "FileRecord",
    "Frozen",
    "How",
    "Journal",
    "Kind",
    "Part",
    "Prepared",
    "Put",
    "RollbackReport",
    "SetAside",
    "keep_tail",
    "listed",
    "moved",
    "populate",
    "records_from_json",
    "records_to_json",
    "rollback",
]
