"""The work before the freeze: reads, with the job running, what the freeze will find unchanged.

Called by `Journal.prepare`. Whatever is read here counts only if the freeze finds the file as it was, or
grown in the append-only way; so nothing is wrong with a file that changes meanwhile.
"""

# Names are strings with surrogates here, next to descriptors and raw calls; Path would add nothing.
# ruff: noqa: PTH120

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptrun.errors import CorruptError
from ckptrun.journal.candidates import Candidate
from ckptrun.journal.contents import key_of, xattrs_of
from ckptrun.journal.record import How, Kind, Part
from ckptrun.journal.taking import WHOLE_UP_TO, Known, Taken, end_of, settled, unchanged
from ckptrun.journal.trees import kind_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ckptrun.core.model import Source
    from ckptrun.journal.candidates import CandidateSet, Ident
    from ckptrun.journal.mounts import Mounted
    from ckptrun.journal.sight import Sight
    from ckptrun.journal.taking import Prefix, Taker


@dataclass(slots=True)
class Early:
    """One early look: what it may use, and what it has read so far.

    Args:
        sight: how the job's files are seen.
        taker: takes contents.
        last: what the previous checkpoint knew.
        previous: contents of earlier checkpoints that can still be read.
        mounted: the mounts of the job's namespace.
        known: contents that count while times prove that the file still has them.
        prefixes: beginnings of append-only files.
        sources: the contents that ``known`` and ``prefixes`` name.
        reused: the keys among them that came out of ``previous``.
        copied: bytes read.
        closed: what ``known`` has of files that the job has written and closed: while it does not write again, their
            content is that; by path.
    """

    sight: Sight
    taker: Taker
    last: Mapping[Ident, Known]
    previous: Mapping[str, Source]
    mounted: Mounted
    known: dict[Ident, Known] = field(default_factory=dict)
    prefixes: dict[Ident, Prefix] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)
    reused: set[str] = field(default_factory=set)
    copied: int = 0
    closed: dict[str, Ident] = field(default_factory=dict)

    def look(self, found: CandidateSet, trees: Sequence[str], stop: frozenset[str]) -> None:
        """Read what can be read early of the candidates and of the preserved trees."""
        for ident, past in self.last.items():
            if self._use(past.parts):
                self.known[ident] = past
        for ident, file in (found.files | self._preserved(found, trees, stop)).items():
            try:
                self._file(ident, file)
            except (OSError, CorruptError):
                continue  # it changes at this moment: the freeze will see to it

    def look_at_closed(self, files: Sequence[Candidate]) -> None:
        """Read the files that the job has written and closed, but for what is known of them."""
        for file in files:
            ident = (file.status.st_dev, file.status.st_ino)
            past = self.known.get(ident)
            try:
                if past is None or not past.still(file.status):
                    self._read(ident, file, closed=True)
            except (OSError, CorruptError):
                continue
            now = self.known.get(ident)
            if now is not None and unchanged(now.status, file.status):
                self.closed[file.path] = ident

    def _preserved(
        self, found: CandidateSet, trees: Sequence[str], stop: frozenset[str]
    ) -> dict[Ident, Candidate]:
        return {
            ident: file
            for tree in trees
            for ident, file in self._regular_files(tree, stop - {tree})
            if ident not in found.files
        }

    def _regular_files(self, tree: str, stop: frozenset[str]) -> Iterator[tuple[Ident, Candidate]]:
        try:
            top = self.sight.resolve(tree)
        except OSError:
            return
        if self.mounted.kernels_at(top):
            return
        for entry in self.sight.walk(top, stop | self.mounted.kernels.keys(), []):
            if kind_of(entry.status) is Kind.FILE:
                ident = (entry.status.st_dev, entry.status.st_ino)
                yield ident, Candidate(entry.path, entry.status, append_only=False, mapped=False)

    def _file(self, ident: Ident, file: Candidate) -> None:
        status = file.status
        if file.append_only and status.st_size > WHOLE_UP_TO:
            with self.sight.open(file) as fd:
                prefix, read = self.taker.prefix(fd, status.st_size, self.last.get(ident), self.previous)
            self.copied += sum(source.size for source in read.values())
            self.sources |= read
            self._use(prefix.parts)
            self.prefixes[ident] = prefix
            return
        past = self.known.get(ident)
        provable = not file.mapped and status.st_dev not in self.mounted.timeless and settled(status)
        if provable and (past is None or not past.still(status)):
            self._read(ident, file)

    def _read(self, ident: Ident, file: Candidate, *, closed: bool = False) -> None:
        with self.sight.open(file) as fd:
            status = os.fstat(fd)
            xattrs = xattrs_of(fd)
            taken = self._grown(fd, status) if closed else None
            if taken is None:
                taken = self.taker.whole(fd, status, os.path.dirname(self.sight.full(file.path)))
            trusted = settled(status) and status.st_dev not in self.mounted.timeless
            if taken is None or not (trusted or closed):
                return
            end = end_of(fd, status.st_size) if file.append_only else ""
        parts = []
        for piece in taken.pieces:
            if not isinstance(piece, Part):
                parts.append(Part(key_of(piece.pieces()), piece.size))
                self.sources.setdefault(parts[-1].key, piece)
            else:
                parts.append(piece)
        self.copied += taken.copied
        self._use(tuple(parts))
        self.known[ident] = Known(
            status, tuple(parts), taken.holes, xattrs, trusted, append_only=file.append_only, end=end
        )

    def _grown(self, fd: int, status: os.stat_result) -> Taken | None:
        """Take a file that begins with what the previous checkpoint knew of it."""
        past = self.last.get((status.st_dev, status.st_ino))
        found = self.taker.grown(fd, status.st_size, past, self.previous)
        if found is None:
            return None
        parts, rest = found
        return Taken((*parts, rest) if rest else parts, How.COPY, copied=rest.size if rest else 0)

    def _use(self, parts: tuple[Part, ...]) -> bool:
        """Take parts out of ``previous`` unless they have just been read; false if one is in neither."""
        if not all(part.key in self.sources or part.key in self.previous for part in parts):
            return False
        for part in parts:
            if part.key not in self.sources:
                self.sources[part.key] = self.previous[part.key]
                self.reused.add(part.key)
        return True
