"""``ckptrun kube install``: what the init container puts into the volume that every container of a pod mounts.

The layout is that of docs/design/kubernetes.md: the static helper as the shim, CRIU's relocatable prefix, and last of
all the version. A second time repairs what is not whole.
"""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from ckptrun import __version__
from ckptrun.capsule import helper
from ckptrun.criu import provision
from ckptrun.criu.program import BrokenPrefixError, verify_prefix
from ckptrun.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SHIM, CRIU, VERSION = "bin/ckptrun-shim", "criu", "VERSION"
"""In the shared folder."""


def install(folder: Path, environ: Mapping[str, str]) -> None:
    """Put shim, CRIU and version into ``folder``.

    Raises:
        MissingFeatureError: there is no CRIU here that can be moved, or no helper.
        ConfigurationError: the folder is missing, cannot be written, or is full.
    """
    prefix = provision.find_movable(environ).prefix
    assert prefix is not None
    stub = helper.find().path
    if not folder.is_dir():
        raise ConfigurationError(
            f"there is no folder {folder}", hint="mount the pod's emptyDir `ckptrun` there"
        )
    try:
        with suppress(FileNotFoundError):
            (folder / VERSION).unlink()
        (folder / SHIM).parent.mkdir(mode=0o755, exist_ok=True)
        _put(stub.read_bytes(), folder / SHIM, 0o755)
        _put_prefix(prefix, folder / CRIU)
        _put(f"{__version__}\n".encode(), folder / VERSION, 0o644)
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        hint = (
            "raise the sizeLimit of its emptyDir: CRIU alone is 20 MB" if full else "mount it writable here"
        )
        raise ConfigurationError(
            f"nothing can be written in {folder}: {error.strerror}", hint=hint
        ) from error


def _put_prefix(source: Path, target: Path) -> None:
    """Copy CRIU's prefix, unless it is there already; it appears whole or not at all."""
    with suppress(BrokenPrefixError):
        verify_prefix(target)
        return
    new = target.with_name(f".{target.name}-{os.getpid()}")
    shutil.rmtree(new, ignore_errors=True)
    try:
        shutil.copytree(source, new, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        if target.exists():
            shutil.rmtree(target)
        new.rename(target)
    except shutil.Error as error:
        reasons = error.args[0]
        raise OSError(
            errno.ENOSPC if "No space" in str(reasons) else errno.EIO, str(reasons[0][2])
        ) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _put(data: bytes, target: Path, mode: int) -> None:
    new = target.with_name(f".{target.name}-{os.getpid()}")
    new.write_bytes(data)
    new.chmod(mode)
    new.replace(target)
