"""Where the files are that the kernel names by handles: mounts, and paths of folders.

Used by the attribution while the job's mount namespace lives, and by the rollback on the host's.
"""

# Names are strings with surrogates here, next to descriptors and raw calls; Path would add nothing.
# ruff: noqa: PTH115, PTH116

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from ckptrun.journal.candidates import under
from ckptrun.journal.fanotify import filesystem_of, handle_of, open_handle
from ckptrun.journal.mounts import Mount, mounts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptrun.journal.fanotify import Handle, Place

_CLOCK_SECONDS = 0.02
"""Files are stamped with a clock that ticks every 1 to 10 ms."""


def _on(path: str, mount: str) -> bool:
    return mount == "/" or under(path, (mount,))


class Places:
    """Finds the paths of folders by their handles, in one mount namespace.

    Args:
        root: prefix through which its paths are reached.
        ignore: mount points in it, with all below, that do not count.
        opened: when, in seconds since the epoch; now, unless told.
    """

    def __init__(self, root: str, ignore: Sequence[str] = (), opened: float | None = None) -> None:
        self._prefix = "" if root == "/" else root
        self._opened = time.time() if opened is None else opened
        self._mounts: dict[bytes, list[int]] = {}
        self.mounts: list[Mount] = []
        for mount in sorted(mounts(root), key=lambda mount: len(mount.shown)):  # a whole filesystem first
            if not mount.takes_files or under(mount.path, ignore):
                continue
            with suppress(OSError):
                full = self._prefix + mount.path
                fd = os.open(full, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                self._mounts.setdefault(filesystem_of(full), []).append(fd)
                self.mounts.append(mount)

    def close(self) -> None:
        """Let go of the mounts."""
        for fds in self._mounts.values():
            for fd in fds:
                os.close(fd)
        self._mounts.clear()

    def mount_of(self, path: str) -> str:
        """Return the mount point that a path lies on, or an empty string."""
        return max((mount.path for mount in self.mounts if _on(path, mount.path)), key=len, default="")

    def folder(self, handle: Handle) -> str | None:
        """Return the path of a folder, or None if it is gone or not to be seen."""
        for mount in self._mounts.get(handle[:8], ()):
            try:
                fd = open_handle(mount, handle)
            except OSError:
                continue
            try:
                path = os.readlink(f"/proc/self/fd/{fd}")
                if os.path.samestat(os.stat(self._prefix + path), os.fstat(fd)):
                    return path
            except OSError:
                continue
            finally:
                os.close(fd)
        return None

    def paths(self, places: Sequence[Place]) -> dict[Place, str]:
        """Return the paths of places; those whose folder is gone are left out."""
        folders = {folder: self.folder(folder) for folder in {place.folder for place in places}}
        return {
            place: f"{'' if found == '/' else found}/{os.fsdecode(place.name)}"
            for place in places
            if (found := folders[place.folder]) is not None
        }

    def holds(self, path: str, file: Handle) -> bool:
        """Say whether a path still names this very file."""
        try:
            return handle_of(self._prefix + path) == file
        except OSError:
            return False

    def changed_since_opened(self, path: str) -> bool:
        """Say whether a file's content was last changed after this was made. Raises OSError."""
        return os.lstat(self._prefix + path).st_mtime >= self._opened - _CLOCK_SECONDS
