"""Builds ckptrun's only native part, the capsule's static helper, for a wheel or an editable install.

Hatchling calls it. The C sources in ``ckptrun/capsule/stub`` are compiled by the compiler that PyPI's
``ziglang`` carries, so that no compiler of the system is needed; wheels hold the binaries of both
architectures and stay ``py3-none-any``. The result depends on the sources, the flags and the compiler only:
checkpoints name the helper by its hash, so the same release must give the same bytes everywhere.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ARCHITECTURES = ("x86_64", "aarch64")
_STUB = Path("ckptrun/capsule/stub")
_NAME = "ckptrun-stub"
_FLAGS = (
    "-std=gnu11",
    "-static",
    "-Os",
    "-g0",
    "-s",
    "-Wall",
    "-Wextra",
    "-Werror=date-time",
    "-fno-sanitize=all",  # zig's default for C is to trap on undefined behaviour, with its own runtime
    "-fno-ident",
    "-Wl,--build-id=none",
)


class CustomBuildHook(BuildHookInterface[Any]):
    """Compiles the helper where it is missing or older than its sources."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build for this machine (editable, or CKPTRUN_HELPERS=own), or for all (a wheel for others)."""
        if self.target_name != "wheel":
            return
        own = version == "editable" or os.environ.get("CKPTRUN_HELPERS") == "own"
        wanted = (platform.machine(),) if own else ARCHITECTURES
        for architecture in wanted:
            build(Path(self.root), architecture)
        build_data["artifacts"] += [f"{_STUB}/bin/{architecture}/{_NAME}" for architecture in wanted]


def build(root: Path, architecture: str) -> Path | None:
    """Compile the helper for one architecture if need be, and return it; None if there are no sources."""
    folder = root / _STUB
    sources = sorted(path.name for path in folder.glob("*.c"))
    if not sources:
        return None
    if architecture not in ARCHITECTURES:
        raise SystemExit(f"ckptrun runs on {' and '.join(ARCHITECTURES)}, not on {architecture}")
    binary = folder / "bin" / architecture / _NAME
    stamp = binary.with_name(".made-from")
    recipe = _recipe(folder, architecture)
    if binary.is_file() and stamp.is_file() and stamp.read_text(encoding="ascii") == recipe:
        return binary
    binary.parent.mkdir(parents=True, exist_ok=True)
    fresh = binary.with_name(f".{_NAME}.{os.getpid()}")
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", f"{architecture}-linux-musl"]
    try:
        # Relative names, so that no path of this machine can get into the binary.
        subprocess.run([*compiler, *_FLAGS, "-o", str(fresh.resolve()), *sources], cwd=folder, check=True)
        fresh.replace(binary)
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"the static helper could not be compiled for {architecture}; see above") from error
    finally:
        fresh.unlink(missing_ok=True)
    stamp.write_text(recipe, encoding="ascii")
    return binary


def _recipe(folder: Path, architecture: str) -> str:
    """Return a digest of everything that decides the binary's bytes."""
    digest = hashlib.sha256(repr((architecture, _FLAGS, metadata.version("ziglang"))).encode())
    for path in sorted(path for pattern in ("*.c", "*.h") for path in folder.glob(pattern)):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()
