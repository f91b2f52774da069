"""Who runs and what: the owner a lease names, and the facts by which the same command is known again."""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from ckptrun.store.repository import CommandFacts, Owner

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

DIGEST_LIMIT = 64 << 20
"""Bytes: larger files named in a command are data, and are not digested."""


def this_owner() -> Owner:
    """Return this process as the owner of a lease: told from every other process there was or will be."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    status = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace")
    start_time = int(status.rpartition(")")[2].split()[19])
    return Owner(boot_id, os.getpid(), start_time, socket.gethostname(), secrets.token_hex(4))


def command_facts(command: Sequence[str], cwd: Path) -> CommandFacts:
    """Return what is remembered of a command: its words, its directory, and the files it names."""
    text = "\0".join([str(cwd), *command])
    files = {}
    for word in command[1:]:
        if content := _digest(cwd / word):
            files[word] = content
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    return CommandFacts(tuple(command), str(cwd), digest, files)


def changed_files(then: Mapping[str, str], cwd: Path, written: Collection[str]) -> tuple[str, ...]:
    """Return the files named in the command that are not what they were; those the job writes itself do not count."""
    return tuple(
        word
        for word, digest in then.items()
        if os.path.realpath(cwd / word) not in written and _digest(cwd / word) != digest
    )


def _digest(path: Path) -> str:
    try:
        if not path.is_file() or path.stat().st_size > DIGEST_LIMIT:
            return ""
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ValueError):
        return ""
