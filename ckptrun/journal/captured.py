"""What the journal hands its caller around a freeze: `Prepared`, `Frozen`, and the files themselves: `Capture`.

Made by `Journal`; the first two are opaque to the supervisor, which only carries them to the next step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptrun.core.model import FileContent, Source
    from ckptrun.journal.attribution import Look
    from ckptrun.journal.candidates import Ident
    from ckptrun.journal.freezing import Draft, Freezing
    from ckptrun.journal.record import FileRecord
    from ckptrun.journal.taking import Known, Prefix


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was learnt and read before the freeze; opaque to the caller.

    Args:
        known: contents that count if times prove at the freeze that the file still has them.
        prefixes: beginnings of append-only files.
        sources: the contents that ``known`` and ``prefixes`` name.
        reused: the keys among them that came from earlier checkpoints.
        left: bytes that the freeze may still copy.
        copied: bytes read early.
        closed: files that the job has written and closed, whose content is in ``known``: by path.
        others: what else it has written.
    """

    known: dict[Ident, Known]
    prefixes: dict[Ident, Prefix]
    sources: dict[str, Source]
    reused: frozenset[str]
    left: int
    copied: int
    closed: dict[str, Ident]
    others: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Frozen:
    """What was captured inside the freeze, not yet named; opaque but for its count.

    Args:
        bytes_inside: bytes copied while the job was stopped.
    """

    bytes_inside: int
    drafts: tuple[Draft, ...] = field(repr=False)
    problems: tuple[tuple[str, str], ...] = field(repr=False)
    prepared: Prepared = field(repr=False)
    freezing: Freezing = field(repr=False)
    looked: Look = field(repr=False)

    def carried(self) -> list[tuple[str, Ident]]:
        """Return the closed files that the job has not written to since they were read; the job may run."""
        gone = self.looked.touched | self.looked.removed
        closed = self.prepared.closed.items()
        return [
            (path, ident) for path, ident in closed if path not in gone and self.freezing.carry(path, ident)
        ]


@dataclass(frozen=True, slots=True)
class Capture:
    """The files of one checkpoint.

    Args:
        records: one per file; `records_to_json` makes the facts of them.
        contents: every content the records refer to, each key once; goes into ``Snapshot.files`` as it is.
        reused: the keys among them that came out of ``previous``: whoever stored those has them already.
        bytes_inside: bytes copied while the job was stopped.
        bytes_early: bytes read before the freeze.
        inexact: names (printable) of the files that are not exact after a restore of this checkpoint.
        problems: one sentence for each of them, and for whatever else could not be captured.
    """

    records: tuple[FileRecord, ...]
    contents: tuple[FileContent, ...]
    reused: frozenset[str]
    bytes_inside: int
    bytes_early: int
    inexact: tuple[str, ...]
    problems: tuple[str, ...]
