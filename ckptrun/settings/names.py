"""Names of lineages and addresses of stores: their rules and their defaults. Pure."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from ckptrun.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NAME_LIMIT = 100
"""Characters of a lineage's name: it becomes a directory and a key prefix."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)
_INTERPRETER = re.compile(r"(?:python|pypy)[0-9.]*", re.ASCII)
_PYTHON_OPTIONS_WITH_VALUE = frozenset({"-W", "-X", "--check-hash-based-pycs"})


def check_name(name: str) -> str:
    """Return ``name`` if a lineage can have it.

    Raises:
        UsageError: it cannot be part of a path and of an object's key.
    """
    if not _NAME.fullmatch(name) or len(name) > NAME_LIMIT:
        raise UsageError(
            f"{name!r} cannot name a lineage",
            hint=f"use letters, digits, '.', '_' and '-', the first a letter or digit, at most {NAME_LIMIT}",
        )
    return name


def default_name(command: Sequence[str], cwd: Path) -> str:
    """Return a readable name, as ``train-3f2a9c``: the same for the same command in the same directory."""
    digest = hashlib.sha256("\0".join((str(cwd), *command)).encode("utf-8", "surrogateescape")).hexdigest()
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", _speaking_word(command)).strip("-._")[:40]
    return f"{stem or 'job'}-{digest[:6]}"


def _speaking_word(command: Sequence[str]) -> str:
    """The word of the command that tells it apart: a script, a module, else the program."""
    program = os.path.basename(command[0])  # noqa: PTH119 -- a word, not a file
    if not _INTERPRETER.fullmatch(program):
        return program.rsplit(".", 1)[0] or program
    words = iter(command[1:])
    for word in words:
        if word in _PYTHON_OPTIONS_WITH_VALUE:
            next(words, None)
        elif word == "-m":
            return next(words, program)
        elif word.startswith("-c") or word == "-":
            return program
        elif not word.startswith("-"):
            base = os.path.basename(word)  # noqa: PTH119 -- a word, not a file
            return base.rsplit(".", 1)[0] or program
    return program


def check_store_url(url: str) -> str:
    """Return ``url`` if it names a store: ``file:///abs/path`` or ``s3://bucket/prefix``.

    Raises:
        UsageError: it does not.
    """
    parts = urlsplit(url)
    if parts.query or parts.fragment:
        raise UsageError(f"store {url!r} has a '?' or '#'", hint="escape it as %3F or %23")
    if parts.scheme == "file":
        if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
            raise UsageError(f"store {url!r} is no absolute path", hint="write file:///path, three slashes")
        if "\0" in unquote(parts.path):
            raise UsageError(f"store {url!r} holds a NUL byte", hint="name an ordinary directory")
        return f"file://{parts.path}"
    if parts.scheme == "s3":
        if not _BUCKET.fullmatch(parts.netloc):
            raise UsageError(f"store {url!r} names no valid bucket", hint="write s3://bucket/prefix")
        return url
    raise UsageError(f"store {url!r} is of no known kind", hint="write file:///path or s3://bucket/prefix")


def store_directory(url: str) -> Path | None:
    """Return the directory of a ``file://`` store; None for a bucket."""
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def state_directory(environ: Mapping[str, str], home: Path) -> Path:
    """Return where ckptrun keeps what outlives a run, by XDG's rule: under ``~/.local/state`` by default."""
    configured = environ.get("XDG_STATE_HOME", "")
    base = home / ".local" / "state" if not configured.startswith("/") else Path(configured)
    return base / "ckptrun"


def run_directory(state_dir: Path, store_url: str, name: str) -> Path:
    """Return the directory of a lineage's live run on this machine: control socket, events, staging.

    The store is part of it: the same name in two stores is two lineages.
    """
    digest = hashlib.sha256(store_url.rstrip("/").encode("utf-8", "surrogateescape")).hexdigest()
    return state_dir / "runs" / digest[:8] / name
