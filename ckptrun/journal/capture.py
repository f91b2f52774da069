"""Takes the files of a job into a checkpoint, around CRIU's freeze: `Journal`.

The supervisor keeps one `Journal` per run and, for each checkpoint, calls

1. `Journal.prepare` with the job running: reads early what can be read early;
2. `Journal.capture` with the job frozen: looks again, copies only what is left; the one step that costs frozen time;
3. `Journal.seal` after the thaw: hashes, names the contents, returns records and contents for the snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ckptrun.core.model import Source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptrun.core.model import FileContent
    from ckptrun.journal.record import FileRecord

Put: TypeAlias = Callable[[Iterable[bytes]], Source]
"""Stores the pieces in staging and returns where they are: readable at once, and for as long as the checkpoint lives."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was learnt and read before the freeze; opaque to the caller."""


@dataclass(frozen=True, slots=True)
class Frozen:
    """What was captured inside the freeze, not yet named; opaque but for its count.

    Args:
        bytes_inside: bytes copied while the job was stopped.
    """

    bytes_inside: int


@dataclass(frozen=True, slots=True)
class Capture:
    """The files of one checkpoint.

    Args:
        records: one per file; `records_to_json` makes the facts of them.
        contents: every content the records refer to, each key once; goes into ``Snapshot.files`` as it is.
        reused: the keys among them that came out of ``previous``: the store has them already if it has that checkpoint.
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


class Journal:
    """The file journal of one run.

    Args:
        limit_bytes: how much file content one checkpoint may copy into staging (``--journal-limit``); reflinks,
            append-only prefixes and the private trees, which are memory, do not count.
        preserve: subtrees (or single files) that belong to the job as a whole, absolute paths in the job's eyes.
        private: trees of the capsule's own (its /dev/shm, its TMPDIR): captured by content at every checkpoint.
        ignore: ckptrun's own paths, in the job's eyes: never captured, wherever they lie.
    """

    def __init__(
        self,
        limit_bytes: int,
        *,
        preserve: Sequence[str] = (),
        private: Sequence[str] = (),
        ignore: Sequence[str] = (),
    ) -> None:
        raise NotImplementedError

    def prepare(self, pids: Sequence[int], put: Put, previous: Mapping[str, Source]) -> Prepared:
        """Read early, with the job running, what the freeze will then find unchanged.

        Args:
            pids: the job's processes as the supervisor's PID namespace counts them, the job root first: paths are
                looked up in its mount namespace.
            put: where to store bytes.
            previous: contents of earlier checkpoints that can still be read, by key: in staging or backed by the
                store. A content that is not in it is read again from its file.
        """
        raise NotImplementedError

    def capture(self, prepared: Prepared, pids: Sequence[int], put: Put) -> Frozen:
        """Capture the files as they are now; call it with every task of the job stopped.

        A file that cannot be captured is recorded as inexact, never an exception; what ``put`` raises goes through.
        """
        raise NotImplementedError

    def seal(self, frozen: Frozen) -> Capture:
        """Hash and name what was captured; the job may run. Remembers it as the previous checkpoint's."""
        raise NotImplementedError

    def resume(self, records: Iterable[FileRecord]) -> None:
        """Take the records of a checkpoint just rolled back to as the previous checkpoint's, so that its contents count
        as known (a long log is not read again by the next checkpoint). Call it before the job runs.
        """
        raise NotImplementedError
