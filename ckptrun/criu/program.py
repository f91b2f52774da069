"""A CRIU that can be run: where it is, how it is started, which version it is.

Made by :mod:`ckptrun.criu.provision`, used by `engine`. Also holds the private prefix: a relocatable folder
with CRIU, its C library and loader, and pycriu, so that a new CRIU runs on an old distribution. This module
reads and seals such a folder; it knows nothing about how its files came there.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MINIMUM = (4, 2, 1)
"""The oldest usable version: 4.1.1 cannot dump a TCP socket on Linux 6.18 ("Can't get 1:16 opt")."""

MARKER = "ckptrun-prefix.json"
PYCRIU_FOLDER = "pycriu-site"
_FORMAT = 1
_BINARY = Path("usr/sbin/criu")


@dataclass(frozen=True)
class Criu:
    """One CRIU, ready to be started.

    Args:
        argv: the command's beginning; CRIU's own words follow it.
        version: such as (4, 2, 1).
        origin: ``CKPTRUN_CRIU``, ``distribution`` or ``private``.
        pycriu_path: the folder that holds the package ``pycriu`` of this or a near version.
    """

    argv: tuple[str, ...]
    version: tuple[int, ...]
    origin: str
    pycriu_path: Path

    @property
    def binary(self) -> Path:
        """The CRIU executable itself, whatever starts it."""
        return Path(self.argv[-1])

    @property
    def prefix(self) -> Path | None:
        """The private prefix it belongs to, or None."""
        return prefix_of(self.binary)


class BrokenPrefixError(Exception):
    """A private prefix that is not as it was made; the message says what is wrong with it."""


def parse_version(text: str) -> tuple[int, ...]:
    """Return the first dotted number in ``text`` as integers, () if there is none: '4.2.1-1' -> (4, 2, 1)."""
    match = re.search(r"\d+(?:\.\d+)*", text.removeprefix("Version:"))
    return () if match is None else tuple(int(part) for part in match[0].split("."))


def show_version(version: tuple[int, ...]) -> str:
    """Return '4.2.1' for (4, 2, 1)."""
    return ".".join(str(part) for part in version)


def prefix_of(binary: Path) -> Path | None:
    """Return the private prefix that ``binary`` lies in, or None."""
    parents = binary.parents
    return parents[2] if len(parents) > 2 and (parents[2] / MARKER).is_file() else None


def open_prefix(prefix: Path, origin: str = "private") -> Criu:
    """Return the CRIU of a sealed prefix, after a quick check: the marker, and the size of every file.

    Raises:
        BrokenPrefixError: not a prefix, cut short, or changed.
    """
    marker = _read_marker(prefix)
    for name, (size, _) in marker["files"].items():
        try:
            found = (prefix / name).stat().st_size
        except OSError as error:
            raise BrokenPrefixError(f"{prefix / name}: {error.strerror}") from error
        if found != size:
            raise BrokenPrefixError(f"{prefix / name} has {found} bytes instead of {size}")
    return _program(prefix, tuple(marker["version"]), origin)


def verify_prefix(prefix: Path) -> None:
    """Compare every file's content with the marker; raise BrokenPrefixError at the first difference."""
    for name, (_, digest) in _read_marker(prefix)["files"].items():
        try:
            found = _digest(prefix / name)
        except OSError as error:
            raise BrokenPrefixError(f"{prefix / name}: {error.strerror}") from error
        if found != digest:
            raise BrokenPrefixError(f"{prefix / name} is not what was installed")


def seal_prefix(prefix: Path, version: tuple[int, ...], made_from: dict[str, Any]) -> None:
    """Write the marker, last of all: what is in the folder, and how it was made."""
    files = {
        str(path.relative_to(prefix)): (path.stat().st_size, _digest(path))
        for path in sorted(prefix.rglob("*"))
        if path.is_file() and path.name != MARKER and "__pycache__" not in path.parts
    }
    body = {"format": _FORMAT, "version": list(version), "made_from": made_from, "files": files}
    text = json.dumps({"body": body, "sha256": _body_digest(body)}, indent=1)
    (prefix / MARKER).write_text(text + "\n", encoding="utf-8")


def unsealed_program(prefix: Path, version: tuple[int, ...]) -> Criu:
    """Return the CRIU of a folder that is being made and has no marker yet."""
    return _program(prefix, version, "private")


def made_from(prefix: Path) -> dict[str, Any]:
    """Return how the prefix was made: ``suite``, and ``packages`` as {name: version}."""
    found: dict[str, Any] = _read_marker(prefix)["made_from"]
    return found


def _read_marker(prefix: Path) -> dict[str, Any]:
    try:
        document = json.loads((prefix / MARKER).read_text(encoding="utf-8"))
        body: dict[str, Any] = document["body"]
        intact = document["sha256"] == _body_digest(body) and body["format"] == _FORMAT
    except OSError as error:
        raise BrokenPrefixError(f"{prefix / MARKER}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BrokenPrefixError(f"{prefix / MARKER} is not readable: {error}") from error
    if not intact:
        raise BrokenPrefixError(f"{prefix / MARKER} does not match its own checksum")
    return body


def _body_digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _program(prefix: Path, version: tuple[int, ...], origin: str) -> Criu:
    """Start CRIU by the prefix's own loader: that, and not the path, is what makes the folder relocatable."""
    loader = next(
        (
            path
            for pattern in ("usr/lib/*/ld-linux*.so.*", "lib/*/ld-linux*.so.*", "usr/lib*/ld-linux*.so.*")
            for path in sorted(prefix.glob(pattern))
        ),
        None,
    )
    if loader is None or not (prefix / _BINARY).is_file():
        raise BrokenPrefixError(f"{prefix} holds no CRIU with its loader")
    triplet = loader.parent.name
    folders = [prefix / part / triplet for part in ("usr/lib", "lib")] + [prefix / "usr/lib", prefix / "lib"]
    libraries = ":".join(str(folder) for folder in folders if folder.is_dir() and any(folder.glob("*.so*")))
    argv = (str(loader), "--library-path", libraries, str(prefix / _BINARY))
    return Criu(argv, version, origin, prefix / PYCRIU_FOLDER)
