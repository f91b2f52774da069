"""What the SDK raises. A reply's ``kind`` chooses the class: see `failure`."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Mapping


class JobError(Exception):
    """Base of everything `ckptrun.job` raises on purpose.

    Args:
        message: one sentence: the thing and the cause.
        hint: the next step; empty when there is none.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class NotUnderCkptrunError(JobError):
    """This process does not run under ckptrun, and the call means nothing without it."""


class UsageError(JobError):
    """The call itself is wrong."""


class UnavailableError(JobError):
    """ckptrun does not answer, or not now."""


class RefusedError(JobError):
    """ckptrun will not do it, and says why."""


class CheckpointFailedError(JobError):
    """No checkpoint was taken, or none was committed; the job is unharmed."""


class FencedError(JobError):
    """Another run has taken the lineage over: this one is being ended."""


KINDS: dict[str, type[JobError]] = {
    "usage": UsageError,
    "unavailable": UnavailableError,
    "refused": RefusedError,
    "checkpoint": CheckpointFailedError,
    "fenced": FencedError,
}
"""Class by the ``kind`` of a reply. A module with requests of its own adds its own classes."""


def failure(reply: Mapping[str, Any]) -> JobError:
    """Return the error that a reply with ``"ok": false`` carries."""
    kind = KINDS.get(str(reply.get("kind", "")), JobError)
    return kind(str(reply.get("error", "ckptrun gave no reason")), str(reply.get("hint", "")))
