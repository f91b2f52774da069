"""A private folder with a short path for sockets and logs: a Unix socket's path has at most 107 bytes.

Folders of supervisors that were killed are removed by the next one. Who lives is told by a lock that dies with its
holder: containers that share a folder do not see each other's processes, and all have the same PID.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import tempfile
import time
from pathlib import Path

from ckptrun.errors import ConfigurationError

PREFIX = "ckptrun-"
LONGEST = 40
"""Bytes that the path of the folder around it may have."""
_NAME = re.compile(rf"{PREFIX}\d+-\w+")
PROBE_BYTES = 1 << 16
LOCK = "lock"
"""File in the folder; locked as long as its supervisor lives."""
UNLOCKED_SECONDS = 60.0
"""A folder without a lock for so long is nobody's: its supervisor was killed before it could lock it."""


def make(environ: dict[str, str], state_dir: Path, only: Path | None = None) -> Path:
    """Return a new folder of mode 0700, named by this process and locked until this process ends.

    Args:
        environ: may name a folder for temporary files.
        only: nowhere but there; it exists.
        state_dir: taken where those can hold nothing, as in a container with a read-only root.

    Raises:
        ConfigurationError: none can be made, or nothing be written into it.
    """
    refused: list[str] = []
    for base in [only] if only else _bases(environ, state_dir):
        try:
            sweep(base)
            return _made(base)
        except OSError as error:
            refused.append(f"{base} ({error.strerror})")
    raise ConfigurationError(
        f"there is no place for ckptrun's sockets and logs: nothing can be written in {', '.join(refused)}",
        hint=f"set TMPDIR to a folder that can be written, with a path of at most {LONGEST} bytes",
    )


def _made(base: Path) -> Path:
    if len(os.fsencode(base)) > LONGEST:
        raise OSError(errno.ENAMETOOLONG, f"a path of more than {LONGEST} bytes")
    if base.is_relative_to("/dev/shm"):  # noqa: S108 - see the message
        raise OSError(errno.EINVAL, "the job has a /dev/shm of its own")
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=base))
    try:
        probe = folder / "probe"
        probe.write_bytes(bytes(PROBE_BYTES))  # a full disk makes folders
        probe.unlink()
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)  # stays open
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def sweep(base: Path) -> None:
    """Remove what supervisors that no longer live have left."""
    for folder in base.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if _NAME.fullmatch(folder.name) and folder.stat().st_uid == os.geteuid() and _is_nobodys(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_nobodys(folder: Path) -> bool:
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return time.time() - folder.stat().st_mtime > UNLOCKED_SECONDS
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(lock)


def _bases(environ: dict[str, str], state_dir: Path) -> list[Path]:
    """Return where it may be made, best first."""
    first = "/run" if os.geteuid() == 0 else environ.get("XDG_RUNTIME_DIR", "")
    places = (first, "/tmp", environ.get("TMPDIR", ""), str(state_dir))  # noqa: S108 - the folder made in it is private
    return list(dict.fromkeys(Path(place).resolve() for place in places if place.startswith("/")))
