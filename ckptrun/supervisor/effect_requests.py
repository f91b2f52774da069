"""The job's requests about effects: they are let into a critical section, answered, and let out of it.

In order, in one thread, so that the channel's is not held up by the ledger. Part of `ckptrun.supervisor.ledger`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptrun.effects.desk import seconds_of
from ckptrun.errors import FencedError, LedgerError, UsageError
from ckptrun.supervisor.hand import Hand

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckptrun.supervisor.channel import Asked
    from ckptrun.supervisor.shell import Shell

_ENTERS = frozenset({"begin", "defer"})
_LEAVES = frozenset({"end", "fail", "leave"})
_ENDED = 256
"""Sections remembered whose process has ended inside."""


class Requests:
    """The requests of one run's job.

    Args:
        shell: carries critical sections out.
        user: uid of the job.
        answer: returns the reply to a request of an incarnation; None if that is not alive any more.
    """

    def __init__(
        self,
        shell: Shell,
        user: int,
        answer: Callable[[Mapping[str, object], int], dict[str, Any] | None],
    ) -> None:
        self._shell = shell
        self._user = user
        self._answer = answer
        self._hand = Hand("effects")
        self._ended: deque[str] = deque(maxlen=_ENDED)

    def do(self, work: Callable[[], None]) -> None:
        """Have something done between two requests, which must not raise; does not wait."""
        self._hand.do(work)

    def stop(self) -> None:
        """Answer nothing any more."""
        self._hand.stop()

    def asked(self, asked: Asked) -> None:
        """Take a request; in the channel's thread."""
        operation = asked.fields.get("op")
        if operation not in _ENTERS:
            section = _section(asked) if operation in _LEAVES else ""
            self._hand.do(lambda: self._reply(asked, section))
            return
        try:
            seconds = seconds_of(asked.fields)
        except UsageError as error:
            asked.fail("usage", error.message, error.hint)
            return
        section = _section(asked)

        def let_in(_: str | None, error: str | None) -> None:
            if error is None:
                self._hand.do(lambda: self._reply(asked, section))
            else:
                asked.fail("unavailable", error)

        def ended() -> None:
            self._ended.append(section)
            left = replace(asked, fields={**asked.fields, "op": "leave"}, answer=lambda _reply: None)
            self._hand.do(lambda: self._reply(left, section))

        what = f"effect {asked.fields.get('key')!r}"
        self._shell.sections.enter(asked, section, seconds, what, let_in, ended)

    def _reply(self, asked: Asked, section: str) -> None:
        """Answer a request whose section, if any, is open; it ends unless the job is to run its function now."""
        stays = False
        try:
            if section in self._ended and asked.fields.get("op") in _ENTERS:
                return  # nobody hears the answer, and nothing of it may be begun
            reply = self._answer(self.signed(asked), asked.incarnation)
            if reply is None:
                return  # nobody hears the answer
            stays = reply.get("act") == "run"
            asked.reply(**reply)
        except FencedError as error:
            asked.fail("fenced", error.message, error.hint)
        except LedgerError as error:
            stays = asked.fields.get("op") == "end"  # it is asked again
            asked.fail("ledger", error.message, error.hint)
        except UsageError as error:
            asked.fail("usage", error.message, error.hint)
        except Exception as error:  # noqa: BLE001 - whatever it is, the job hears of it and the thread goes on
            asked.fail("internal", f"internal error: {error!r}")
        finally:
            if section and not stays:
                self._shell.sections.leave(asked, section)

    def signed(self, asked: Asked) -> Mapping[str, object]:
        """Return what is asked; what a process of another user than the job's has done for it is done as that user."""
        call = asked.fields.get("call")
        if not isinstance(call, dict):
            return asked.fields
        call = {name: value for name, value in call.items() if name != "user"}
        if asked.user[0] != self._user:
            call["user"] = list(asked.user)
        return {**asked.fields, "call": call}


def _section(asked: Asked) -> str:
    token = asked.fields.get("token") if asked.fields.get("op") != "defer" else asked.fields.get("id")
    return f"effect {token}"[:200]
