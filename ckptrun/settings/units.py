"""Sizes and durations as people write them: ``1G``, ``512K``, ``30s``, ``1h30m``.

Pure. Sizes are in bytes with binary factors (``1K`` is 1024, as in CRIU and systemd); durations in seconds.
"""

from __future__ import annotations

import math
import re

from ckptrun.errors import UsageError

_SIZE_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_DURATION_FACTORS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}

_SIZE = re.compile(
    r"(?P<number>\d{1,18}(?:\.\d{1,9})?)\s*(?:(?P<unit>[KMGT])i?)?B?", re.IGNORECASE | re.ASCII
)
_DURATION = re.compile(
    r"(?:(?P<d>\d{1,9}(?:\.\d{1,9})?)d)?"
    r"(?:(?P<h>\d{1,9}(?:\.\d{1,9})?)h)?"
    r"(?:(?P<m>\d{1,9}(?:\.\d{1,9})?)m(?!s))?"
    r"(?:(?P<s>\d{1,9}(?:\.\d{1,9})?)s)?"
    r"(?:(?P<ms>\d{1,9}(?:\.\d{1,9})?)ms)?",
    re.ASCII,
)
_PLAIN_NUMBER = re.compile(r"\d{1,9}(?:\.\d{1,9})?", re.ASCII)


def parse_size(text: str) -> int:
    """Return the bytes that ``text`` means.

    Accepts ``1048576``, ``512K``, ``1.5G``, ``64MiB``.

    Raises:
        UsageError: it is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is no size", hint="write it as 64M, 1G or a number of bytes")
    number, factor = match["number"], _SIZE_FACTORS[(match["unit"] or "").upper()]
    return int(float(number) * factor) if "." in number else int(number) * factor


def parse_duration(text: str) -> float:
    """Return the seconds that ``text`` means.

    Accepts ``30s``, ``5m``, ``1h30m``, ``250ms`` and a plain number of seconds.

    Raises:
        UsageError: it is no duration.
    """
    stripped = text.strip()
    if _PLAIN_NUMBER.fullmatch(stripped):
        return float(stripped)
    match = _DURATION.fullmatch(stripped)
    if match is None or not stripped:
        raise UsageError(f"{text!r} is no duration", hint="write it as 30s, 5m or 1h30m")
    return math.fsum(float(number) * _DURATION_FACTORS[unit] for unit, number in match.groupdict("0").items())


def format_size(size: float) -> str:
    """Return bytes for people: three significant digits and a binary unit, as ``1.5 GiB``."""
    if size < 1024:
        return f"{size:.0f} B"
    value = float(size)
    unit = ""
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        value /= 1024
        if value < 999.5 or unit == "PiB":
            break
    return f"{value:.3g} {unit}" if value < 999.5 else f"{value:.0f} {unit}"


def format_duration(seconds: float) -> str:
    """Return seconds for people: ``0.25 s``, ``42 s``, ``5m 03s``, ``2h 10m``, ``3d 04h``."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02d}h"
