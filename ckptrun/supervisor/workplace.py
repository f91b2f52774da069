"""A private folder with a short path for sockets and logs: a Unix socket's path has at most 107 bytes.

Folders of supervisors that were killed are removed by the next one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from pathlib import Path

import psutil

from ckptrun.errors import ConfigurationError

PREFIX = "ckptrun-"
LONGEST = 40
"""Bytes that the path of the folder around it may have."""
PROBE_BYTES = 1 << 16


def make(environ: dict[str, str]) -> Path:
    """Return a new folder of mode 0700, named by this process and its start.

    Raises:
        ConfigurationError: none can be made, or nothing be written into it.
    """
    refused: list[str] = []
    for base in _bases(environ):
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
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{_stamp(psutil.Process())}-", dir=base))
    try:
        probe = folder / "probe"
        probe.write_bytes(bytes(PROBE_BYTES))  # a full disk makes folders
        probe.unlink()
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def sweep(base: Path) -> None:
    """Remove what supervisors that no longer live have left."""
    for folder in base.glob(f"{PREFIX}*-*-*"):
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            pid = int(folder.name.split("-")[1])
            if folder.stat().st_uid != os.geteuid():
                continue
            if not psutil.pid_exists(pid) or not folder.name.startswith(
                f"{PREFIX}{_stamp(psutil.Process(pid))}-"
            ):
                shutil.rmtree(folder, ignore_errors=True)


def _stamp(process: psutil.Process) -> str:
    return f"{process.pid}-{int(process.create_time())}"


def _bases(environ: dict[str, str]) -> list[Path]:
    """Return where it may be made, best first."""
    first = "/run" if os.geteuid() == 0 else environ.get("XDG_RUNTIME_DIR", "")
    places = (first, "/tmp", environ.get("TMPDIR", ""))  # noqa: S108 - the folder made in it is private
    return list(dict.fromkeys(Path(place).resolve() for place in places if place.startswith("/")))
