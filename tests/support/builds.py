"""Libraries of a test's own, and other builds of them, without a compiler: a copy whose build-id is changed."""

from __future__ import annotations

import ctypes.util
import os
import shutil
from pathlib import Path

from ckptrun.supervisor.binaries import build_id

_NOTE = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0"
"""Head of a build-id note: 4 bytes of name, 20 of digest, type 3."""


def library_of(folder: Path, name: str = "libown.so") -> Path:
    """Copy a small library of the system's, with a build-id, to a name of our own."""
    path = folder / name
    shutil.copy(_small_library(), path)
    path.chmod(0o755)
    return path


def another_build(library: Path) -> None:
    """Change a library's build-id in place, as if it were built from another source."""
    data = bytearray(library.read_bytes())
    at = data.index(_NOTE) + len(_NOTE)
    data[at] ^= 0xFF
    library.write_bytes(data)


def without_build_id(library: Path) -> None:
    """Make the build-id's note one of a type nobody knows."""
    data = bytearray(library.read_bytes())
    data[data.index(_NOTE) + 8] = 0x77
    library.write_bytes(data)


def _small_library() -> Path:
    """Return a library with a build-id that this interpreter has not loaded under this name."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = Path(line.split(maxsplit=5)[-1])
        if path.name.startswith("libm.so") and path.exists():
            fd = os.open(path, os.O_RDONLY)
            try:
                if build_id(fd):
                    return path
            finally:
                os.close(fd)
    raise AssertionError(f"no library with a build-id here; libm is {ctypes.util.find_library('m')}")
