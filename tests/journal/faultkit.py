"""A rollback in a process of its own that is killed, or told that the disk is full, at its n-th change to files.

Changes are what the interpreter is about to ask of the kernel (its audit events), so that every one of them is met,
whatever the code calls its steps.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING

from ckptrun.errors import StoreFullError
from ckptrun.journal import listed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckptrun.journal import RollbackReport

CHANGES = frozenset(
    {
        *("os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.removexattr", "os.rename"),
        *("os.rmdir", "os.setxattr", "os.symlink", "os.truncate", "os.utime"),
    }
)
KILLED, FULL, WRONG, UNHARMED, MISSED = 9, 3, 4, 5, 0
"""How it ended: UNHARMED did without that change, MISSED has not that many."""


def struck(
    rollback: Callable[[], RollbackReport], at: int, kind: str, where: tuple[Path, ...]
) -> tuple[int, str]:
    """Roll back in a process that meets its end at change number ``at``.

    Args:
        rollback: what is called.
        at: counts from 0.
        kind: ``kill`` or ``full``.
        where: only changes below these folders count; descriptors and relative names always do.

    Returns:
        How it ended, and what was said.
    """
    read, write = os.pipe()
    child = os.fork()
    if not child:
        code, text = WRONG, ""
        try:
            strike = Strike(at, kind, tuple(map(str, where)))
            sys.addaudithook(strike.hook)
            report = rollback()
            code, text = MISSED if strike.left >= 0 else UNHARMED, ""
            if report.problems:
                code, text = WRONG, "\n".join(report.problems)
        except StoreFullError as error:
            code, text = FULL, str(error)
        except BaseException as error:  # noqa: BLE001 - of a process that must end here
            text = repr(error)
        finally:
            os.write(write, text.encode(errors="backslashreplace"))
            os._exit(code)
    os.close(write)
    with os.fdopen(read, encoding="utf-8") as pipe:
        text = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


class Strike:
    """An audit hook that counts changes down."""

    def __init__(self, at: int, kind: str, where: tuple[str, ...]) -> None:
        self.left = at
        self._kind = kind
        self._where = where

    def hook(self, event: str, args: tuple[object, ...]) -> None:
        changes = event in CHANGES or (event == "open" and isinstance(args[2], int) and args[2] & os.O_CREAT)
        if not changes or (
            isinstance(args[0], str) and args[0][:1] == "/" and not args[0].startswith(self._where)
        ):
            return
        self.left -= 1
        if self.left == -1 and self._kind == "kill":
            os._exit(KILLED)
        if self.left == -1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def contents(*tops: Path) -> list[bytes]:
    """Return the content of every regular file in the folders."""
    return [
        path.read_bytes()
        for top in tops
        for path in top.rglob("*")
        if path.is_file() and not path.is_symlink()
    ]


def expect_nothing_destroyed(before: list[bytes], top: Path, aside: Path) -> None:
    """Every content that was there is still there or aside, or there is its beginning here and its end aside."""
    here, kept = contents(top), contents(aside)
    for content in before:
        cut = any(content == start + end for end in kept for start in here if end and start)
        assert content in here or content in kept or cut, content[:100]


def expect_all_listed(aside: Path) -> None:
    """Whatever the folder of kept things holds is named in its index."""
    assert {path.name for path in aside.iterdir()} == {entry.id for entry in listed(aside)} | {"index.jsonl"}
