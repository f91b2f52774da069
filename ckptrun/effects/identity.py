"""Whether a ledger is the one that a checkpoint counts on, with all that it had then. Pure.

Each run that claims a ledger leaves its name there, and the seq at which it began. A checkpoint's mark names the claim
under which it was taken. So another ledger is known, an old copy that was put back, and one that went another way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptrun.effects.model import Claim, Head, Mark


def lacks(mark: Mark, head: Head, claims: Sequence[Claim]) -> str:
    """Return what is wrong with a ledger for a checkpoint with ``mark``, as one clause; "" if nothing.

    Args:
        mark: the checkpoint's.
        head: the ledger's.
        claims: the ledger's, the oldest first.
    """
    names = [claim.name for claim in claims]
    if mark.claim and mark.claim not in names:
        if mark.ledger in names:
            return "it is a copy that was made before the checkpoint, or went another way since"
        return "it is another ledger, or a new one" if names else "it is empty"
    if _reach(mark, head, claims) < mark.seq:
        return (
            "it is an old copy that was put back: what was recorded shortly before the checkpoint is missing"
        )
    return ""


def _reach(mark: Mark, head: Head, claims: Sequence[Claim]) -> int:
    """Return the newest seq that the run of the mark has left in this ledger."""
    if not mark.claim:
        return head.seq
    at = next(index for index, claim in enumerate(claims) if claim.name == mark.claim)
    return claims[at + 1].seq if at + 1 < len(claims) else head.seq
