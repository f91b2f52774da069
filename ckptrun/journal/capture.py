"""Takes the files of a job into a checkpoint, around CRIU's freeze: `Journal`.

The supervisor keeps one `Journal` per run and, for each checkpoint, calls

1. `Journal.prepare` with the job running: reads early what can be read early;
2. `Journal.capture` with the job frozen: looks again, takes only what is left; the one step that costs frozen
time;
3. `Journal.seal` after the thaw: hashes, names the contents, returns records and contents for the snapshot.
"""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptrun.core.model import FileContent
from ckptrun.journal.attribution import Attribution, Look
from ckptrun.journal.candidates import Candidate, root_of, scan, under
from ckptrun.journal.captured import Capture, Frozen, Prepared
from ckptrun.journal.comparing import boot_id
from ckptrun.journal.contents import key_of
from ckptrun.journal.early import Early
from ckptrun.journal.freezing import Freezing, carried
from ckptrun.journal.mounts import Mounted
from ckptrun.journal.record import FileRecord, How, Identity, Kind, Part, printable
from ckptrun.journal.sight import Sight
from ckptrun.journal.taking import Known, Put, Taker, end_of, settled
from ckptrun.journal.trail import Trail

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from ckptrun.core.model import Source
    from ckptrun.journal.candidates import CandidateSet, Ident
    from ckptrun.journal.fanotify import Event, Place
    from ckptrun.journal.sight import User


class Journal:
    """The file journal of one run; its calls come one at a time, from any thread.

    Args:
        limit_bytes: how much file content one checkpoint may copy into staging (``--journal-limit``);
            reflinks, append-only files and the private trees, which are memory, do not count.
        preserve: subtrees or single files that belong to the job as a whole; absolute, in the job's eyes.
        private: trees of the capsule's own (its /dev/shm, its TMPDIR), captured at every checkpoint.
        ignore: ckptrun's own paths, in the job's eyes: never captured, wherever they lie.
        trail: folder for what the job does to files (`Journal.watch`); None: only open files count.
        user: whom the job runs as, if that is somebody with fewer rights than ours.
    """

    def __init__(
        self,
        limit_bytes: int,
        *,
        preserve: Sequence[str] = (),
        private: Sequence[str] = (),
        ignore: Sequence[str] = (),
        trail: Path | None = None,
        user: User | None = None,
    ) -> None:
        self._limit = limit_bytes
        self._preserve = tuple(path for path in preserve if not under(path, private))
        self._private = tuple(private)
        self._ignore = tuple(ignore)
        self._user = user
        self._last: dict[Ident, Known] = {}
        self._no_clone: set[int] = set()
        self._boot = boot_id()
        self._trail = None if trail is None else Trail(trail)
        self._attribution = None if self._trail is None else Attribution(self._trail, private)

    def watch(
        self, root: str, attach: Callable[[int, int], None], sync: Callable[[], None], where: str
    ) -> str:
        """Learn from now on what the job writes, also what it closes again; see `Attribution.watch`."""
        return "" if self._attribution is None else self._attribution.watch(root, attach, sync, where)

    def go_on(self, root: str, attach: Callable[[int], None], sync: Callable[[], None], since: float) -> None:
        """Learn on what a job writes that has outlived the supervisor before: see `Attribution.go_on`."""
        if self._attribution is not None:
            self._attribution.go_on(root, attach, sync, since)

    def since(self, checkpoint: str) -> list[Event]:
        """Return what the job has done to files since a checkpoint, as far as this machine knows.

        Call it with no capsule of the job alive. Raises OSError.
        """
        return [] if self._trail is None else self._trail.since(checkpoint)

    def prepare(self, pids: Sequence[int], put: Put, previous: Mapping[str, Source]) -> Prepared:
        """Read early, with the job running, what the freeze will then find unchanged.

        Args:
            pids: the job's processes as the supervisor's PID namespace counts them, the job root first:
                paths are looked up in its mount namespace.
            put: where to store bytes; what it raises goes through.
            previous: contents of earlier checkpoints that can still be read, by key: in staging or backed
                by the store. A content that is not in it is read again from its file.
        """
        root = root_of(pids)
        early = Early(
            sight=Sight(root, self._user),
            taker=Taker(put, self._limit, self._no_clone),
            last=self._last,
            previous=previous,
            mounted=Mounted.of(root),
        )
        if self._attribution is not None:
            self._attribution.look()
        found = scan(pids, root, self._ignore)
        early.look(found, self._preserve, self._stop())
        early.look_at_closed(self._closed(root, found))
        return Prepared(
            early.known,
            early.prefixes,
            early.sources,
            frozenset(early.reused),
            early.taker.left,
            early.copied,
            early.closed,
            tuple(path for path in self._written() if path not in early.closed),
        )

    def _closed(self, root: str, found: CandidateSet) -> list[Candidate]:
        """Return the files that the job has written and does not have open, as they stand."""
        attribution = self._attribution
        if attribution is None:
            return []
        files = []
        for path, place in self._written().items():
            try:
                status = os.lstat((root if root != "/" else "") + path)
            except OSError:
                attribution.forget(place)
                continue
            ident = (status.st_dev, status.st_ino)
            known = self._last.get(ident)
            if (known is None or not known.still(status)) and not attribution.still(path, place):
                continue
            if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and ident not in found.files:
                files.append(Candidate(path, status, append_only=False, mapped=False))
        return files

    def capture(self, prepared: Prepared, pids: Sequence[int], put: Put, checkpoint: str = "") -> Frozen:
        """Take the files as they are now; call it with every task of the job stopped.

        A file that cannot be captured is recorded as inexact, never an exception; what ``put`` raises goes
        through. ``checkpoint`` is the name under which `since` will know this moment.
        """
        root = root_of(pids)
        found = scan(pids, root, self._ignore)
        freezing = Freezing(
            sight=Sight(root, self._user),
            found=found,
            taker=Taker(put, prepared.left, self._no_clone),
            known=prepared.known,
            prefixes=prepared.prefixes,
            mounted=Mounted.of(root),
        )
        stop = self._stop()
        for tree in self._private:
            freezing.tree(tree, stop - {tree}, private=True)
        for tree in self._preserve:
            freezing.tree(tree, stop - {tree}, private=False)
        freezing.candidates()
        looked = self._attribution.look(checkpoint) if self._attribution is not None else Look()
        freezing.written(self._to_look_at(prepared, looked))
        sentences = list(found.problems)
        if self._attribution is not None:
            lost = self._attribution.problem()
            sentences += [lost] if lost else []
            sentences += self._attribution.others()
        problems = (*freezing.problems, *(("", sentence) for sentence in sentences))
        return Frozen(freezing.copied, tuple(freezing.drafts), problems, prepared, freezing, looked)

    def seal(self, frozen: Frozen) -> Capture:
        """Hash and name what was captured; the job may run. Remembers it as the previous checkpoint's.

        Raises:
            CorruptError: a captured content cannot be read back.
        """
        prepared = frozen.prepared
        contents: dict[str, Source] = {}
        records = []
        last: dict[Ident, Known] = {}
        drafts = (carried(path, prepared.known[ident]) for path, ident in frozen.carried())
        for draft in (*frozen.drafts, *drafts):
            parts = []
            for piece in draft.pieces:
                if isinstance(piece, Part):
                    contents.setdefault(piece.key, prepared.sources[piece.key])
                    parts.append(piece)
                else:
                    key = key_of(piece.pieces())
                    contents.setdefault(key, piece)
                    parts.append(Part(key, piece.size))
            record = replace(draft.record, parts=tuple(parts))
            status = draft.status
            if status is not None and record.exact:
                last[status.st_dev, status.st_ino] = Known(
                    status,
                    record.parts,
                    record.holes,
                    record.xattrs,
                    draft.trusted,
                    draft.append_only,
                    draft.end,
                )
                if draft.trusted:
                    identity = Identity(self._boot, status.st_dev, status.st_ino, status.st_ctime_ns)
                    record = replace(record, identity=identity)
            records.append(record)
        self._last = last
        return Capture(
            records=tuple(records),
            contents=tuple(FileContent(key, source, fixed=True) for key, source in contents.items()),
            reused=prepared.reused & contents.keys(),
            bytes_inside=frozen.bytes_inside,
            bytes_early=prepared.copied,
            inexact=tuple(printable(path) for path, _ in frozen.problems if path),
            problems=tuple(sentence for _, sentence in frozen.problems),
        )

    def _stop(self) -> frozenset[str]:
        """Return the paths that no tree reaches into: ckptrun's own, and other trees."""
        return frozenset((*self._ignore, *self._private, *self._preserve))

    def _to_look_at(self, prepared: Prepared, looked: Look) -> list[str]:
        """Return what the job has written and the freeze must look at; `looked` gets what it has removed."""
        if looked.everything:
            written = self._written()
            looked.removed |= prepared.closed.keys() - written.keys()
            return [path for path in written if path not in prepared.closed or path in looked.touched]
        elsewhere = self._elsewhere()
        new = [path for path in sorted(looked.touched) if not under(path, elsewhere)]
        left = [path for path in prepared.others if path not in looked.removed]
        return list(dict.fromkeys((*left, *new)))

    def _elsewhere(self) -> tuple[str, ...]:
        return ("/proc", "/sys", "/dev", *self._stop())

    def _written(self) -> dict[str, Place]:
        """Return what the job has written, by path, but for what is ignored or in a tree."""
        if self._attribution is None:
            return {}
        elsewhere = self._elsewhere()
        files = self._attribution.files()
        return {path: place for path, place in files.items() if not under(path, elsewhere)}

    def resume(self, records: Sequence[FileRecord], checkpoint: str = "") -> None:
        """Take the records of a checkpoint just rolled back to as those of the previous checkpoint.

        Call it before the job runs: its contents then count as known, and a long log is not read again.
        """
        if self._attribution is not None:
            files = [record.path for record in records if not record.private and not record.tree]
            self._attribution.resume(files, checkpoint)
        self._last = {}
        sight = Sight("/", self._user)
        for record in records:
            if record.kind is not Kind.FILE or record.private or record.link or not record.exact:
                continue
            try:
                status = sight.lstat(record.path)
                file = Candidate(record.path, status, append_only=False, mapped=False)
                with sight.open(file) as fd:
                    end = end_of(fd, record.size) if record.how is How.APPEND else ""
            except OSError:
                continue
            if (status.st_size, status.st_mtime_ns) == (record.size, record.mtime_ns):
                self._last[status.st_dev, status.st_ino] = Known(
                    status,
                    record.parts,
                    record.holes,
                    record.xattrs,
                    trusted=record.identity is not None and settled(status),
                    append_only=bool(end),
                    end=end,
                )
