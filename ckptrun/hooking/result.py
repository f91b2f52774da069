"""What a hook answers, as ``schema/result.json`` wants it: `Result`. Pure; `runner` reads it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptrun.hooking.contract import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckptrun.core.model import Json

RETRY_AFTER_SECONDS = 1e9
"""A longer ``retry_after`` is a mistake; waiting for so long is what nothing here can do."""
DATA_BYTES = 64 << 10
"""What a hook may have stored with one checkpoint, as JSON."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a hook answers.

    Args:
        outcome: how it went.
        retry_after: seconds after which another try makes sense; None if it does not say.
        reason: one clause for people; empty if there is nothing to say.
        done: what was done, compared with what is required.
        data: to be kept with the checkpoint; None if there is nothing to keep.
        events: for the run's diary; each has the key ``event``.
        released: keys of the messages that it has taken.
    """

    outcome: Outcome = Outcome.OK
    retry_after: float | None = None
    reason: str = ""
    done: tuple[str, ...] = ()
    data: dict[str, Json] | None = None
    events: tuple[dict[str, Json], ...] = ()
    released: tuple[str, ...] = ()

    @classmethod
    def from_bytes(cls, text: bytes) -> Result:
        """Read what a hook has written; nothing at all is ok.

        Raises:
            ValueError: it is not as ``schema/result.json`` wants it; the message is one clause.
        """
        if not text.strip():
            return cls()
        try:
            value = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            shown = text[:60].decode("utf-8", "backslashreplace").strip()
            raise ValueError(f"its standard output is no JSON: {shown!r}") from error
        if not isinstance(value, dict):
            raise ValueError(f"its standard output is no JSON object but {type(value).__name__}")  # noqa: TRY004
        return cls.from_json(value)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Result:
        """Read a result; see `from_bytes`."""
        for key, item in value.items():
            if key not in _CHECKS:
                raise ValueError(f"its result has {key!r}, which means nothing")
            if not _CHECKS[key](item):
                raise ValueError(f"its result's {key!r} is wrong: {str(item)[:60]!r}")
        data = value.get("data")
        if data is not None and len(json.dumps(data)) > DATA_BYTES:
            raise ValueError(f"its data is larger than {DATA_BYTES >> 10} KiB")
        after = value.get("retry_after")
        return cls(
            Outcome(value.get("outcome", "ok")),
            None if after is None else float(after),
            value.get("reason", ""),
            tuple(value.get("done", ())),
            data,
            tuple(value.get("events", ())),
            tuple(value.get("released", ())),
        )


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _is_number(value: object) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= RETRY_AFTER_SECONDS
    )


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "outcome": lambda value: isinstance(value, str) and value in set(Outcome),
    "retry_after": _is_number,
    "reason": lambda value: isinstance(value, str),
    "done": lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
    "released": lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
    "data": lambda value: isinstance(value, dict),
    "events": lambda value: (
        isinstance(value, list)
        and all(
            isinstance(item, dict) and isinstance(item.get("event"), str) and item["event"] for item in value
        )
    ),
}
