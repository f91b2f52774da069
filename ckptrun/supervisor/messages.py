"""What the job has deferred without a sender, as the hooks of post-commit are given it: a `Mailbag` over the ledger.

What a committed checkpoint covers may be handed over, and all of it once the job has ended well. Called by the thread
of hooks, and at the end by the main one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptrun.effects.calls import message_id
from ckptrun.effects.model import Mark
from ckptrun.effects.plan import Action
from ckptrun.hooking.contract import Message
from ckptrun.hooking.messages import within

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from ckptrun.effects.book import Book
    from ckptrun.effects.model import Entry
    from ckptrun.effects.plan import Step


class Messages:
    """The messages of one run; see `ckptrun.hooking.messages.Mailbag`.

    Args:
        lineage: as the ledger calls it.
        book: returns the book; None while the job has used no effects.
        quietly: makes something say why it failed, in place of raising.
        record: takes events for the diary.
    """

    def __init__(
        self,
        lineage: str,
        book: Callable[[], Book | None],
        quietly: Callable[[Callable[[], object]], Callable[[], None]],
        record: Callable[..., None],
    ) -> None:
        self._lineage = lineage
        self._book = book
        self._quietly = quietly
        self._record = record
        self._upto: Mark | None = Mark()
        self._held: dict[str, Entry] = {}

    def cover(self, mark: Mark | None) -> None:
        """Take note that a checkpoint with ``mark`` is committed; None: the job has ended well, all may be sent."""
        self._upto = mark

    def take(self, skip: Collection[str], most: int, size: int) -> list[Message]:
        """See `Mailbag.take`."""
        found: list[Message] = []
        self._quietly(lambda: found.extend(self._take(skip, most, size)))()
        return found

    def released(self, keys: Collection[str], hook: str) -> None:
        """See `Mailbag.released`."""
        self._settle(keys, "")
        for key in keys:
            self._record("effect-sent", key=key, hook=hook)

    def returned(self, keys: Collection[str], why: str) -> None:
        """See `Mailbag.returned`."""
        self._settle(keys, why)

    def waiting(self) -> list[Entry]:
        """Return what waits for a hook, the oldest first. Raises LedgerUnavailableError, FencedError."""
        return [step.entry for step in self._due(None)]

    def _due(self, upto: Mark | None) -> list[Step]:
        book = self._book()
        return [step for step in book.works.due(upto) if step.action is Action.HAND] if book else []

    def _take(self, skip: Collection[str], most: int, size: int) -> list[Message]:
        book = self._book()
        steps: dict[str, Step] = {}
        for step in self._due(self._upto):
            if step.entry.key not in skip:
                steps.setdefault(step.entry.key, step)  # one of another life waits its turn
        messages = {key: self._message(step.entry) for key, step in steps.items()}
        first = list(steps.values())[: within(list(messages.values()), most, size)]
        entries = book.works.take(*first) if book and first else []
        self._held.update((entry.key, entry) for entry in entries)
        return [messages[entry.key] for entry in entries]

    def _settle(self, keys: Collection[str], error: str) -> None:
        outcomes = [(entry, error) for key in keys if (entry := self._held.pop(key, None))]

        def work() -> None:
            book = self._book()
            if book and outcomes:
                book.works.settled(*outcomes)

        self._quietly(work)()

    def _message(self, entry: Entry) -> Message:
        name = message_id(self._lineage, entry)
        return Message(name, entry.key, entry.payload, round(entry.began, 3))
