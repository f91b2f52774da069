"""What the ready-made hooks share: a program that reads its context, does one phase and answers.

Run as a process of its own, never in the supervisor. docs/design/hooks.md is the contract.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Answer: TypeAlias = "dict[str, Any]"


class HookFailedError(Exception):
    """The phase could not be done; the message names the thing, the cause and the next step."""


class TryAgainError(Exception):
    """The phase cannot be done now.

    Args:
        reason: what stands in the way.
        after: seconds after which another try makes sense.
    """

    def __init__(self, reason: str, after: float) -> None:
        super().__init__(reason)
        self.after = after


class NotInstalledError(HookFailedError):
    """A package that an extra brings is not there."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"the Python package {package} is not installed beside ckptrun: pip install 'ckptrun[{extra}]'"
        )


@dataclass(frozen=True, slots=True)
class Context:
    """What a hook is told; the fields are those of ``schema/context.json``.

    Args:
        deadline: the moment, in seconds of `time.monotonic`, at which ckptrun ends this call.
    """

    phase: str
    lineage: str
    run: str
    epoch: int
    options: dict[str, Any] = field(repr=False)
    deadline: float
    checkpoint: str | None = None
    data: dict[str, Any] | None = None
    outcome: dict[str, Any] | None = None
    exit: dict[str, Any] | None = None
    kept: tuple[str, ...] | None = None
    dry_run: bool = False

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Context:
        """Read the object on standard input."""
        checkpoint = value.get("checkpoint")
        return cls(
            phase=value["phase"],
            lineage=value["lineage"],
            run=value["run"],
            epoch=value["epoch"],
            options=dict(value.get("options") or {}),
            deadline=time.monotonic() + float(value.get("timeout") or 30.0),
            checkpoint=checkpoint["id"] if checkpoint else None,
            data=value.get("data"),
            outcome=value.get("outcome"),
            exit=value.get("exit"),
            kept=None if value.get("kept") is None else tuple(value["kept"]),
            dry_run=bool(value.get("dry_run")),
        )

    def listed(self, option: str) -> list[str]:
        """Return the words of an option: of each of its strings, those between commas."""
        value = self.options.get(option) or []
        pieces = [value] if isinstance(value, str) else value
        return [word.strip() for piece in pieces for word in piece.split(",") if word.strip()]

    def number(self, option: str, default: float) -> float:
        """Return an option that is a number.

        Raises:
            HookFailedError: it is none.
        """
        try:
            return float(self.options.get(option, default))
        except (TypeError, ValueError):
            raise HookFailedError(
                f"option {option} is no number: {self.options[option]!r}; write {option}={default:g}"
            ) from None

    def closing(self) -> bool:
        """Whether what this phase closes has gone well."""
        return bool((self.outcome or {}).get("ok"))

    def complete(self) -> bool:
        """on-exit: whether the run has come to its end, so that nothing of it is restored any more."""
        return bool((self.exit or {}).get("final"))

    def forgettable(self, noted: Sequence[str]) -> list[str]:
        """post-commit: return which checkpoints can never be restored any more.

        What was noted after the one that is committed now may be one that is just being taken.

        Args:
            noted: ids, in the order in which they were noted.
        """
        if self.kept is None or self.checkpoint not in noted:
            return []
        return [one for one in noted[: noted.index(self.checkpoint)] if one not in self.kept]


def serve(phases: Mapping[str, Callable[[Context], Answer | None]]) -> NoReturn:
    """Do the phase that the context on standard input names, answer on standard output, and end."""
    context = Context.from_json(json.load(sys.stdin))
    work = phases.get(context.phase)
    try:
        answer = (work(context) if work else None) or {}
    except TryAgainError as error:
        answer = {"outcome": "retry", "retry_after": error.after, "reason": str(error)}
    except HookFailedError as error:
        answer = {"outcome": "failed", "reason": str(error)}
    json.dump(answer, sys.stdout)
    sys.stdout.flush()
    sys.exit(0)
