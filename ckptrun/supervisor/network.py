"""The TCP policy of a run: how CRIU is told at a dump, and what a restore does with each connection.

Used by the checkpointer and the restorer, in their worker threads.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Any

from ckptrun.core.config import TcpPolicy
from ckptrun.criu import leftovers, ownrights
from ckptrun.criu.connections import (
    CLOSE_FLAGS,
    KEEP_FLAGS,
    Fate,
    bereft,
    check_keepable,
    listening_at,
    locked_ends,
    report,
    survey,
)
from ckptrun.criu.failed import failed
from ckptrun.criu.lostpeer import LostPeer
from ckptrun.criu.portlock import PortLock
from ckptrun.criu.queues import BereftError, name_of
from ckptrun.criu.restoring import LostRaceError
from ckptrun.criu.rewriter import Rewriter
from ckptrun.errors import DumpError, PermissionMissingError, RestoreError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from ckptrun.core.model import Source
    from ckptrun.criu.connections import Connection, End
    from ckptrun.criu.images import ImageReader
    from ckptrun.criu.staging import Extents


class Network:
    """What one run does with its job's TCP connections.

    Raises:
        PermissionMissingError: all are to be kept, and this process may rebuild none.
    """

    def __init__(self, policy: TcpPolicy, reader: ImageReader) -> None:
        self._policy = policy
        self._reader = reader
        self._may_keep = ownrights.rights() is ownrights.Rights.FULL
        if policy is TcpPolicy.KEEP and not self._may_keep:
            raise PermissionMissingError(
                "--tcp keep needs root with NET_ADMIN: nobody else may rebuild a TCP connection",
                hint="leave --tcp out: connections to the outside come back closed",
            )

    @property
    def dump_flags(self) -> tuple[str, ...]:
        """What CRIU is told at a dump, and must be told again at the restore."""
        return KEEP_FLAGS if self._may_keep and self._policy is not TcpPolicy.CLOSE else CLOSE_FLAGS

    def look(self, pids: Sequence[int], images: dict[str, Extents]) -> set[tuple[End, End]]:
        """Look, in the freeze, at what CRIU does not: connections that have failed, and bytes that no process holds.

        The queues of the first leave the images, so that a restore resets them; what is returned is for `check_dump`.
        """
        if self.dump_flags != KEEP_FLAGS:
            return set()
        for ino in failed(pids):
            images.pop(name_of(ino), None)
        return leftovers.leaving()

    def check_dump(
        self, images: Mapping[str, Source], leaving: Collection[tuple[End, End]], *, again: bool
    ) -> None:
        """Refuse a dump whose connections could not be restored as the policy wants.

        Args:
            images: of the dump.
            leaving: what `look` gave.
            again: whether it was taken again already; then ``auto`` takes it with connections to be reset.

        Raises:
            DumpError: one inside of the job could not be rebuilt here.
            TornError: one was saved at two moments.
            BereftError: what was sent on one is in no process.
        """
        connections = self._survey(images, self._reader.inet_sockets(images), self.dump_flags)
        if self.dump_flags == KEEP_FLAGS:
            self._reader.queues.check_untorn(images, connections)
            bad = bereft(connections, leaving)
            if bad is not None and (self._policy is TcpPolicy.KEEP or not again):
                raise BereftError(bad)
        else:
            check_keepable(connections, DumpError)

    @contextlib.contextmanager
    def restoring(
        self, images: Mapping[str, Source], flags: Sequence[str]
    ) -> Iterator[tuple[dict[str, Source], list[str]]]:
        """Yield the images as CRIU should be given them, and what to tell the user once that has worked.

        Until the end of the context packets are dropped and closed connections reset, as the policy wants.

        Args:
            images: as they were dumped.
            flags: `dump_flags` of the dump.

        Raises:
            RestoreError: a connection is to be rebuilt, and this process may not; or the caller's `LostRaceError`, with
                the reason if nothing could keep the kernel from winning.
        """
        sockets = self._reader.inet_sockets(images)
        connections = self._survey(images, sockets, flags)
        if not self._may_keep:
            check_keepable(connections, RestoreError)
        with contextlib.ExitStack() as stack:
            resets = Counter(c.only6 for c in connections if c.fate is Fate.RESET)
            try:
                peer = stack.enter_context(contextlib.closing(LostPeer(resets)))
            except OSError as error:
                raise RestoreError(
                    f"connections to the outside cannot be closed: no loopback to do it on ({error})",
                    hint="bring the loopback device up",
                ) from error
            ends = locked_ends(connections)
            leftovers.clear(ends, listening_at(sockets))
            unlocked = lock(ends, stack)
            try:
                yield (
                    self._reader.for_restore(images, Rewriter(connections, peer.ports)),
                    report(connections),
                )
            except LostRaceError as error:
                if unlocked:
                    error.hint = f"{error.hint}; {unlocked}"
                raise

    def _survey(
        self, images: Mapping[str, Source], sockets: Sequence[Any], flags: Sequence[str]
    ) -> tuple[Connection, ...]:
        failed = {entry.ino for entry in sockets if name_of(entry.ino) not in images}
        return survey(sockets, self._policy, queues=tuple(flags) == KEEP_FLAGS, failed=failed)


def lock(ends: Sequence[tuple[End, End]], stack: contextlib.ExitStack) -> str:
    """Drop packets between `ends` until `stack` is closed; or say why not: CRIU has to win its race then."""
    if ends:
        try:
            stack.enter_context(contextlib.closing(PortLock(ends)))
        except OSError as error:
            return (
                "the kernel's nf_tables, which keeps it from that (Linux 5.12 or newer), "
                f"could not be used: {error.strerror or error}"
            )
    return ""
