"""One run's hands on its ledger: the head, what is written, and the numbers that order it. Used by `book` alone."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptrun.effects.model import State
from ckptrun.errors import LedgerUnavailableError

if TYPE_CHECKING:
    from ckptrun.effects.ledger import Ledger
    from ckptrun.effects.model import Claim, Entry, Head

FIRST_SEQ = 1 << 40
"""A new ledger's first seq is below this."""


class Keeper:
    """The ledger of one lineage, claimed for one run. One thread at a time.

    Args:
        ledger: where the entries are kept.
        epoch: of the lineage's writer; 0 if it is not known.

    Raises:
        FencedError: a later epoch has the ledger. Every method that writes raises it, too.
        LedgerUnavailableError: it is out of reach. So does every method.
    """

    def __init__(self, ledger: Ledger, epoch: int) -> None:
        self.epoch = epoch
        self.claim = secrets.token_hex(8)
        """The name of this run's claim."""
        self._ledger = ledger
        self._head: Head = ledger.claim(epoch, self.claim)
        self._written = self._head.seq
        self.claims: tuple[Claim, ...] = tuple(ledger.claims())
        """All claims, this one the last."""
        if not self._head.seq:  # in no two ledgers does a seq, or a life, mean two things
            self._head = replace(self._head, seq=secrets.randbelow(FIRST_SEQ))
        self._doubtful: set[str] = set()

    @property
    def written(self) -> int:
        """The newest seq that the ledger is known to have."""
        return self._written

    @property
    def head(self) -> Head:
        """The head as it is here: its seq may be ahead of the ledger's."""
        return self._head

    def get(self, key: str, life: int | None = None) -> Entry | None:
        """Return an entry; of the present life unless told."""
        return self._ledger.get(self._head.life if life is None else life, key)

    def loose(self) -> list[Entry]:
        """See `Ledger.loose`."""
        return self._ledger.loose()

    def since(self, seq: int) -> list[Entry]:
        """See `Ledger.since`."""
        return self._ledger.since(seq)

    def next(self, past: int = 0) -> int:
        """Return the next seq, after ``past`` too. It is never given again, even if the write that uses it fails."""
        self._head = replace(self._head, seq=max(self._head.seq, past) + 1)
        return self._head.seq

    def write(self, *entries: Entry, life: int | None = None, closed: bool | None = None) -> None:
        """Store entries, and with them what is new of the head, in one transaction."""
        head = replace(
            self._head,
            life=self._head.life if life is None else life,
            closed=self._head.closed if closed is None else closed,
        )
        try:
            self._ledger.write(head, entries, self._written)
        except LedgerUnavailableError:
            self._doubtful.update(one.token for one in entries if one.state is State.STARTED)
            raise
        self._head, self._written = head, head.seq

    def doubts(self, entry: Entry) -> bool:
        """Whether the write that began an effect has failed: the job was told so, and nothing was done."""
        return entry.token in self._doubtful

    def forget(self) -> None:
        """Forget what only the memory of the incarnation before has made true."""
        self._doubtful.clear()
