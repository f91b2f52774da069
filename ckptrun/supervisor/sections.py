"""The critical sections of one run on their way to the machine, and the end of those whose process has ended.

Made by `Shell`; used for `ckptrun.job.critical` and for effects, each of which is in one while it is done.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ckptrun.core.events import CriticalEntered, CriticalLeft
from ckptrun.supervisor.deaths import Deaths

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptrun.supervisor.channel import Asked
    from ckptrun.supervisor.shell import Shell

    Told = Callable[[str | None, str | None], None]

WORDS = 200
"""Characters of what a section is called that are kept."""


class Sections:
    """The critical sections of one run. Any thread.

    Args:
        shell: carries them out.
    """

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._deaths = Deaths()

    def enter(
        self,
        asked: Asked,
        section: str,
        seconds: float,
        what: str,
        told: Told,
        ended: Callable[[], None] | None = None,
    ) -> None:
        """Have a section entered.

        Args:
            asked: by whom.
            section: its name, unique in the incarnation.
            seconds: how long it may keep dumps from beginning.
            what: what people call it.
            told: called in the loop's thread once the job may go on, or with why it may not.
            ended: called when the process ends inside; without it, the section is left then.
        """
        number, pid, nested = asked.incarnation, asked.pid, asked.fields.get("nested") is True
        words = f"{_words(what)} in process {pid}"

        def enter(now: float, waiter: int) -> CriticalEntered:
            return CriticalEntered(now, number, section, seconds, waiter, words, pid, nested)

        self._shell.enqueue(lambda: self._shell.ask(number, told, enter))
        self._deaths.watch(pid, section, ended or (lambda: self._leave(number, section)))

    def leave(self, asked: Asked, section: str, told: Told | None = None) -> None:
        """Have a section left; `told` is called in the loop's thread when it is."""
        number = asked.incarnation
        self._deaths.forget(asked.pid, section)
        if told is None:
            self._leave(number, section)
        else:
            self._shell.enqueue(
                lambda: self._shell.ask(
                    number, told, lambda now, waiter: CriticalLeft(now, number, section, waiter)
                )
            )

    def close(self) -> None:
        """Notice no process's end any more."""
        self._deaths.close()

    def _leave(self, number: int, section: str) -> None:
        self._shell.enqueue(lambda: self._shell.tell(CriticalLeft(time.monotonic(), number, section)))


def _words(what: str) -> str:
    """Return words of the job's as they may be printed."""
    text = " ".join(what.split())[:WORDS]
    return "".join(character if character.isprintable() else "?" for character in text)
