"""The end of a run, in an order that can be broken off anywhere: what cannot be taken back comes after its reason.

A job that has ended well is never gone on with: that is in the store before hooks are told so, which may throw away
what a restore would need, and before all of its effects are sent. A run that is killed in between is not closed: the
next one with the same command does the rest, from the start, and ends as this one would have. Whatever else ends a run
leaves what it was going on from; its hooks are told before the store is, so that a kill costs no more than
another restore. Called by ``app`` in the main thread, once nothing of the job lives.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptrun.core.model import RunState

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptrun.core.model import Snapshot
    from ckptrun.store.repository import RunInfo
    from ckptrun.supervisor.incarnation import Incarnation
    from ckptrun.supervisor.parts import Parts


def conclude(
    parts: Parts, run: RunInfo, incarnation: Incarnation | None, state: Callable[[], Snapshot | None]
) -> None:
    """Do all that follows the end of the job, and close the run; says what could not be done.

    Args:
        parts: the run's.
        run: how it ended; `RunInfo.ended` is not known yet.
        incarnation: the last one; None if another run had it.
        state: see `Vault.close`.
    """
    assert run.exit is not None
    well = run.state is RunState.FINISHED
    final = well and parts.vault.settle(run)
    parts.hooks.end(run.exit, incarnation, final=final)
    parts.effects.finish(well=well, hand_over=lambda: parts.hooks.hand_over(incarnation))
    parts.state.close(stored=parts.vault.close(replace(run, ended=time.time()), state))
