"""Hands the messages that a job has deferred to the hooks that take them, batch after batch.

Who keeps the messages is a `Mailbag`; a `Round` is one hook's turn at it. A message counts as sent once a hook has
named it in its answer; one that was handed over and not named is handed over again, with the same id.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, Self

from ckptrun.hooking.contract import Outcome

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ckptrun.hooking.contract import Message
    from ckptrun.hooking.result import Result

MOST = 1000
MOST_BYTES = 1 << 20
"""What one call of a hook is given; as JSON."""


class Mailbag(Protocol):
    """Keeps what waits. Any thread; nothing is raised: what cannot be reached now waits for the next time."""

    def take(self, skip: Collection[str], most: int, size: int) -> Sequence[Message]:
        """Record that messages are being handed over, and return them: the oldest first, no key twice.

        Args:
            skip: keys of those that are left alone.
            most: how many.
            size: bytes that they may have as JSON, all in all; a single one may have more.
        """

    def released(self, keys: Collection[str], hook: str) -> None:
        """Record that a hook has sent these."""

    def returned(self, keys: Collection[str], why: str) -> None:
        """Record that these wait again."""


class Round:
    """One hook's turn. One thread.

    Args:
        mailbag: what waits.
        hook: its name.
    """

    def __init__(self, mailbag: Mailbag, hook: str) -> None:
        self._mailbag = mailbag
        self._hook = hook
        self._held: list[Message] = []
        self._skip: set[str] = set()
        self._taken = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._give_back("it was not handed over")

    def begin(self) -> list[Message]:
        """Return the next batch: what waits, but for what this hook has not wanted in this turn."""
        self._taken = 0
        self._held = list(self._mailbag.take(self._skip, MOST, MOST_BYTES))
        return self._held

    def given(self) -> list[Message]:
        """Return what the hook is given: all of the batch that it has not taken yet."""
        return self._held

    def answered(self, result: Result) -> Result:
        """Record what a hook has taken; return its result, which is a failure if it names what it was not given."""
        named = set(result.released)
        taken = [message.key for message in self._held if message.key in named]
        strange = named.difference(taken)
        if taken:
            self._mailbag.released(taken, self._hook)
            self._taken += len(taken)
            self._held = [message for message in self._held if message.key not in named]
        if not strange:
            return result
        reason = f"its result's 'released' names {min(strange)!r:.80}, which it was not given"
        return replace(result, outcome=Outcome.FAILED, reason=reason)

    def end(self, result: Result) -> bool:
        """Give back what was not taken; return whether the hook should be called with the next batch."""
        again = result.outcome is Outcome.OK and bool(self._taken or self._held)
        if not self._taken:  # what it does not want at all is not offered twice in one turn
            self._skip.update(message.key for message in self._held)
        self._give_back(result.reason or "it did not name it in 'released'")
        return again

    def _give_back(self, why: str) -> None:
        if self._held:
            self._mailbag.returned([message.key for message in self._held], f"hook {self._hook}: {why}")
        self._held = []


def within(messages: Sequence[Message], most: int, size: int) -> int:
    """Return how many of the first of these may be handed over at once; at least one, if there is one."""
    total = 0
    for count, message in enumerate(messages[:most]):
        total += len(json.dumps(message.to_json()))
        if total > size and count:
            return count
    return min(len(messages), most)
