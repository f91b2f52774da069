"""Whole subtrees as the job sees them: found (through symlinks) and walked for a checkpoint.

Called by the capture for preserved subtrees and for the capsule's own trees, and by the rollback to find what
a preserved subtree holds too much.
"""

# Names are strings with surrogates here, next to descriptors and raw calls; Path would add nothing.
# ruff: noqa: PTH115

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptrun.journal.record import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator
    from contextlib import AbstractContextManager

_SYMLINKS = 40
"""Symlinks followed in one path, as the kernel does (``path_resolution(7)``)."""

_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFSOCK: Kind.SOCKET,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """Something found in a tree: its path in the job's eyes, and what ``lstat`` said."""

    path: str
    status: os.stat_result


def kind_of(status: os.stat_result) -> Kind | None:
    """Return the kind of a file; None for a device, which no checkpoint holds."""
    return _KINDS.get(stat.S_IFMT(status.st_mode))


def resolve(root: str, path: str, look: Callable[[str], None] = lambda _link: None) -> str:
    """Return a path with its symlinks followed inside ``root``; what is missing stays as written.

    Args:
        root: prefix for all paths.
        path: absolute.
        look: told the path of each symlink, with the prefix, before it is followed; what it raises is raised.

    Raises:
        OSError: ELOOP, or a folder on the way cannot be read.
    """
    prefix = "" if root == "/" else root
    done = ""
    left = deque(path.split("/"))
    followed = 0
    while left:
        name = left.popleft()
        if name in {"", "."}:
            continue
        if name == "..":
            done = done.rpartition("/")[0]
            continue
        try:
            target = os.readlink(f"{prefix}{done}/{name}")
        except OSError as error:
            if error.errno not in {errno.EINVAL, errno.ENOENT, errno.ENOTDIR}:
                raise
            done = f"{done}/{name}"
            continue
        followed += 1
        if followed > _SYMLINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        look(f"{prefix}{done}/{name}")
        if target.startswith("/"):
            done = ""
        left.extendleft(reversed(target.split("/")))
    return done or "/"


def walk(
    root: str,
    top: str,
    stop: Container[str],
    unread: list[str],
    looking: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[Entry]:
    """Yield what a subtree holds, folders before their contents, in order; mounts inside belong to it.

    Args:
        root: prefix through which the job's paths are reached.
        top: the subtree, resolved; nothing is yielded if it does not exist.
        stop: paths that are left out together with what is below them.
        unread: gets the paths that could not be read.
        looking: a context in which paths are followed; what is done with an entry is done outside of it.
    """
    prefix = "" if root == "/" else root
    waiting = [top]
    try:
        with looking():
            status = os.lstat(prefix + top)
    except FileNotFoundError:
        return
    except OSError:
        unread.append(top)
        return
    yield Entry(top, status)
    while waiting:
        folder = waiting.pop()
        try:
            with looking(), os.scandir(prefix + folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
                found = [_entry(entry, folder, unread) for entry in entries]
        except NotADirectoryError:
            continue
        except OSError:
            unread.append(folder)
            continue
        kept = [entry for entry in found if entry is not None and entry.path not in stop]
        yield from kept
        waiting.extend(entry.path for entry in reversed(kept) if stat.S_ISDIR(entry.status.st_mode))


def _entry(entry: os.DirEntry[str], folder: str, unread: list[str]) -> Entry | None:
    path = f"{folder.rstrip('/')}/{entry.name}"
    try:
        return Entry(path, entry.stat(follow_symlinks=False))
    except FileNotFoundError:
        return None
    except OSError:
        unread.append(path)
        return None
