"""Finds the static helper binary and installs it under a path that contains its hash.

The helper maps its own file, so CRIU records its path: a checkpoint can only be restored where the same bytes lie at
the same path. Inside the capsule that path is `inside_path`; outside, installed copies live beside the state directory.
"""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from ckptrun.errors import MissingFeatureError

HIDDEN = "/dev/shm/.ckptrun"  # noqa: S108 - a fixed path inside the capsule's own tmpfs
"""Where everything of ckptrun's that the job can see lies, inside every capsule."""


@dataclass(frozen=True, slots=True)
class Helper:
    """The helper's bytes on this machine, and the hash that names them."""

    path: Path
    digest: str

    @property
    def inside_path(self) -> str:
        """Where the helper lies inside the capsule, whatever the machine."""
        return f"{HIDDEN}/bin/stub-{self.digest}"


def built_path() -> Path:
    """Return where the package carries the helper for this machine's architecture."""
    return Path(__file__).parent / "stub" / "bin" / platform.machine() / "ckptrun-stub"


def digest_of(data: bytes) -> str:
    """Name the helper's bytes: the first 16 hexadecimal digits of their SHA-256."""
    return hashlib.sha256(data).hexdigest()[:16]


def find(env_path: str | None = None) -> Helper:
    """Return the helper.

    Raises:
        MissingFeatureError: the package was installed without it, or for another architecture.
    """
    path = Path(env_path) if env_path else built_path()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MissingFeatureError(
            f"the static helper {path} cannot be read ({error.strerror})",
            hint="install ckptrun again (from a clone: make setup)",
        ) from error
    return Helper(path, digest_of(data))


def carried(data: bytes, folder: Path) -> Helper:
    """Install a helper that came with a checkpoint and return it; `folder` is private to the user."""
    digest = digest_of(data)
    path = folder / f"stub-{digest}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = folder / f".{digest}.{os.getpid()}"
        temporary.write_bytes(data)
        temporary.chmod(0o755)
        temporary.rename(path)
    return Helper(path, digest)
