"""Tells the user what is not as it should be with files: each thing once, and of a great many only the first."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

AT_ONCE = 10
"""Sentences said one by one; of more, the first of them and a count."""


class Problems:
    """Says sentences.

    Args:
        note: takes one sentence for the user.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._said: set[str] = set()

    def tell(self, sentences: Iterable[str]) -> None:
        """Say sentences, but those that were said before."""
        new = [sentence for sentence in dict.fromkeys(sentences) if sentence not in self._said]
        self._said.update(new)
        shown = new if len(new) <= AT_ONCE else new[: AT_ONCE - 1]
        for sentence in shown:
            self._note(sentence)
        if len(new) > len(shown):
            self._note(
                f"the same or the like holds for {len(new) - len(shown)} more files; "
                "`ckptrun files` tells which of them a checkpoint does not have"
            )
