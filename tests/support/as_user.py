"""Run a command as an ordinary user who can read this interpreter and this repository, wherever they lie.

    python as_user.py UID GID HOME -- COMMAND...

Run as root. Where a folder on the way is closed to others (``/root``), a private mount namespace has an open
one in its place that shows what is needed and nothing else; the machine itself is not changed. Standard
library only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import stat
import sys
from pathlib import Path

NOBODY = 65534
UNNAMED = 64321
"""A user id that no machine has a name for."""

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_PR_SET_PDEATHSIG = 1


def command(uid: int, gid: int, home: Path) -> tuple[str, ...]:
    """Return what to put before a command line, for `Lab.prefix`."""
    return (sys.executable, __file__, str(uid), str(gid), str(home), "--")


def needed() -> list[Path]:
    """Return the folders an interpreter and ckptrun's own modules are read from."""
    places = {Path(sys.prefix), Path(sys.base_prefix), Path(__file__).parents[2]}
    return sorted({place.resolve() for place in places})


def closed_ancestor(path: Path) -> Path | None:
    """Return the topmost folder on the way to `path` that others may not enter."""
    for folder in reversed(path.parents):
        if not folder.stat().st_mode & stat.S_IXOTH:
            return folder
    return None if path.stat().st_mode & stat.S_IXOTH else path


def open_ways() -> None:
    """Cover closed folders with open ones that show what is needed."""
    _check(_LIBC.unshare(_CLONE_NEWNS), "unshare")
    _mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE)
    hidden = [(path, folder) for path in needed() if (folder := closed_ancestor(path))]
    handles = {path: os.open(path, os.O_PATH) for path, _ in hidden}
    for folder in sorted({folder for _, folder in hidden}):
        _mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"mode=755")
    for path, handle in handles.items():
        path.mkdir(parents=True, exist_ok=True)
        _mount(f"/proc/self/fd/{handle}".encode(), os.fsencode(path), None, _MS_BIND | _MS_REC)
        os.close(handle)


def bind_copy(path: Path, copy: Path, tail: str) -> None:
    """Put a copy with more at its end in the place of a file, for this mount namespace alone."""
    copy.write_text(path.read_text(encoding="utf-8") + tail, encoding="utf-8")
    _mount(os.fsencode(copy), os.fsencode(path), None, _MS_BIND)


def main() -> None:
    uid, gid, home = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    open_ways()
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # the change of user has reset it
    os.environ.update(HOME=home, USER="somebody", LOGNAME="somebody")
    os.execv(sys.argv[5], sys.argv[5:])


def _mount(source: bytes, target: bytes, kind: bytes | None, flags: int, data: bytes | None = None) -> None:
    _check(_LIBC.mount(source, target, kind, flags, data), os.fsdecode(target))


def _check(result: int, what: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), what)


if __name__ == "__main__":
    main()
