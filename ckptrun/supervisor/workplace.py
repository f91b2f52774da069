"""A private folder with a short path for sockets and logs: a Unix socket's path has at most 107 bytes.

Folders of supervisors that were killed are removed by the next one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import psutil

PREFIX = "ckptrun-"


def make(environ: dict[str, str]) -> Path:
    """Return a new folder of mode 0700, named by this process and its start."""
    base = _base(environ)
    sweep(base)
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{_stamp(psutil.Process())}-", dir=base))


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


def _base(environ: dict[str, str]) -> Path:
    candidates = ["/run"] if os.geteuid() == 0 else [environ.get("XDG_RUNTIME_DIR", "")]
    for candidate in candidates:
        if candidate and os.access(candidate, os.W_OK | os.X_OK):
            return Path(candidate)
    return Path("/tmp")  # noqa: S108 - the folder made in it is private
