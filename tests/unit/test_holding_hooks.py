"""Hooks that hold somebody until the thaw begin when everything else is ready for the freeze."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from ckptrun.core.commands import TakeCheckpoint
from ckptrun.core.model import Trigger
from ckptrun.criu.queues import BereftError
from ckptrun.errors import HookError
from ckptrun.supervisor.attempt import Attempt, Order, Reins

if TYPE_CHECKING:
    from ckptrun.criu.staging import Slot


class Recorded(Attempt):
    """An attempt that only says what it would do."""

    def __init__(self, *holds: object, busy: int = 0, refuses: bool = False) -> None:
        self.did: list[str] = []
        self._busy, self._refuses, self._holds = busy, refuses, list(holds)
        tools = SimpleNamespace(network=SimpleNamespace(dump_flags=()))
        command = TakeCheckpoint("t-1", Trigger.REQUEST, hold=False, deadline=None)
        unused = cast("Any", None)
        order = Order(command, unused, Reins(), 1.0, dict, self._hold, unused, unused)
        super().__init__(cast("Any", tools), order)

    def _hold(self, slot: Slot) -> Slot:
        self.did.append("hold")
        if self._refuses:
            raise HookError("not now", skipped=True)
        return cast("Any", self._holds.pop()) if self._holds else slot

    def _prepare(self, slot: Slot) -> None:
        self.did.append(f"prepare {slot}")

    def _dump(self, slot: Slot, _flags: tuple[str, ...]) -> None:
        self.did.append(f"dump {slot}")
        if self._busy:
            self._busy -= 1
            raise BereftError(cast("Any", SimpleNamespace(here="a", there="b")))


class Named(SimpleNamespace):
    def __str__(self) -> str:
        return str(self.name)


SLOT, LARGER = cast("Any", Named(name="slot", used=0)), cast("Any", Named(name="larger", used=0))


def test_what_files_have_is_read_before_anybody_is_held() -> None:
    attempt = Recorded()
    attempt.run(SLOT)
    assert attempt.did == ["prepare slot", "hold", "dump slot"]


def test_a_slot_that_has_become_too_small_is_prepared_anew() -> None:
    attempt = Recorded(LARGER)
    attempt.run(SLOT)
    assert attempt.did == ["prepare slot", "hold", "prepare larger", "dump larger"]


def test_a_second_try_finds_everybody_held_already() -> None:
    attempt = Recorded(busy=1)
    attempt.run(SLOT)
    assert attempt.did == ["prepare slot", "hold", "dump slot", "prepare slot", "dump slot"]


def test_nothing_is_dumped_if_one_of_them_says_no() -> None:
    attempt = Recorded(refuses=True)
    with pytest.raises(HookError):
        attempt.run(SLOT)
    assert attempt.did == ["prepare slot", "hold"]
