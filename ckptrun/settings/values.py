"""From the text of one option to its value. Called by `resolve`, which says whose text it was.

What does not parse raises UsageError with a hint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeVar

from ckptrun.errors import ConfigurationError, UsageError
from ckptrun.settings.units import parse_duration, parse_size

if TYPE_CHECKING:
    import enum
    from pathlib import Path

    from ckptrun.core.config import Interval

E = TypeVar("E", bound="enum.StrEnum")

SHORTEST_INTERVAL = 0.1
"""Seconds. Below it the job would be frozen more often than it runs."""


def interval(text: str) -> Interval:
    """Return seconds between checkpoints, ``auto``, or None for ``off``."""
    if text == "auto":
        return "auto"
    if text == "off":
        return None
    try:
        seconds = parse_duration(text)
    except UsageError as error:
        raise UsageError(f"{text!r} is no interval", hint="write 30s, 5m, auto or off") from error
    if seconds < SHORTEST_INTERVAL:
        raise UsageError(
            f"an interval of {text} is shorter than {SHORTEST_INTERVAL} s",
            hint="write off for no checkpoints by time",
        )
    return seconds


def staging(text: str) -> int | Literal["auto"]:
    """Return bytes, or ``auto``."""
    return "auto" if text == "auto" else parse_size(text)


def count(text: str) -> int:
    """Return a whole number."""
    if not (text.isascii() and text.isdecimal()) or len(text) > 9:
        raise UsageError(f"{text!r} is no whole number", hint="write digits only")
    return int(text)


def positive_duration(text: str) -> float:
    """Return seconds."""
    if (seconds := parse_duration(text)) <= 0:
        raise UsageError("it must be longer than zero", hint="write 30s, for instance")
    return seconds


def choice(kind: type[E], text: str) -> E:
    """Return the member of an enumeration."""
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"{text!r} is no such choice", hint="choose " + ", ".join(kind)) from None


def user(text: str) -> str:
    """Return a user as written: whether there is such a one is found out where the job will run."""
    who, colon, group = text.partition(":")
    if not who or (colon and not group) or ":" in group or any(char.isspace() for char in text):
        raise UsageError(f"{text!r} is no user", hint="write NAME, UID, or UID:GID")
    return text


def label(text: str) -> tuple[str, str]:
    """Return key and value."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise UsageError(f"{text!r} is no label", hint="write KEY=VALUE")
    return key, value


def existing(path: Path) -> Path:
    """Return a path that is there.

    Raises:
        ConfigurationError: it is not, or it cannot be reached.
    """
    try:
        path.stat()
    except OSError as error:
        gone = isinstance(error, FileNotFoundError)
        raise ConfigurationError(
            f"{path} does not exist" if gone else f"{path} cannot be reached: {error.strerror}",
            hint="name a file or folder that is there from the start",
        ) from error
    return path
