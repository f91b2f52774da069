"""A request of the job's as its handlers see it. Made by `ckptrun.supervisor.channel`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, or one notice, of a process of the job's.

    Args:
        do: its name.
        fields: all that it says.
        pid: of its sender, as this process sees it.
        incarnation: that is alive.
        answer: takes the reply's fields; see `reply` and `fail`.
        user: its sender's user and group, as this process sees them.
    """

    do: str
    fields: Mapping[str, Any]
    pid: int
    incarnation: int
    answer: Callable[[dict[str, Any]], None]
    user: tuple[int, int] = (0, 0)

    def reply(self, **fields: Any) -> None:
        """Answer that it is done; any thread, once. After the incarnation's end nobody hears it."""
        self.answer({"ok": True, **fields})

    def fail(self, kind: str, error: str, hint: str = "") -> None:
        """Answer why it is not done; `kind` chooses what the SDK raises (``ckptrun.job._errors.KINDS``)."""
        self.answer({"ok": False, "kind": kind, "error": error, "hint": hint})


Handler: TypeAlias = "Callable[[Asked], None]"
"""Called in the channel's thread, so it returns soon: what waits for anything goes to another thread."""
