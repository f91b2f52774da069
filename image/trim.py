"""Leave out what a sidecar never reads, and compile the rest once.

    python trim.py /opt/ckptrun /var/lib/ckptrun

Standard library and binutils only: it runs in the image's build. Compiled files carry their source's hash and
no time, so that two builds are equal and none is looked at again.
"""

from __future__ import annotations

import compileall
import py_compile
import shutil
import subprocess
import sys
from pathlib import Path

AWS_SERVICES = frozenset({"s3", "sts", "sso", "sso-oidc", "signin", "kms", "iam"})
"""Of botocore's descriptions of services, which are nine tenths of it: the store, and ways to credentials."""
KUBERNETES_APIS = frozenset(
    {"__init__", "core_v1_api", "coordination_v1_api", "events_v1_api", "batch_v1_api"}
)
LEFT_OUT = (
    "zstandard/_cffi*.so",  # for interpreters other than CPython
    "psutil/tests",
    "pygments/lexers/[a-z]*.py",  # rich shows no source code here
    "pygments/styles/[a-z]*.py",
    "boto3/examples",
    "sqlalchemy/testing",
    "**/*.pyx",
    "**/*.pxd",
    "**/*.pyi",
    "**/*.c",
    "**/*.h",
)


def trim(site: Path) -> None:
    """Remove what is listed above from a folder of packages."""
    for pattern in LEFT_OUT:
        for path in site.glob(pattern):
            _remove(path)
    for folder in (site / "botocore/data").glob("*/"):
        if folder.name not in AWS_SERVICES:
            _remove(folder)
    strip(sorted(path for path in site.rglob("*.so") if not path.parent.name.endswith(".libs")))


def strip(libraries: list[Path]) -> None:
    """Drop what only debuggers read; libraries that were packed into a wheel do not bear it."""
    subprocess.run(["strip", "--strip-unneeded", "--", *libraries], check=True)  # noqa: S607 - binutils, by PATH


def compile_all(folder: Path) -> None:
    """Compile every module below a folder."""
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    if not compileall.compile_dir(folder, quiet=1, force=True, invalidation_mode=mode, workers=0):
        raise SystemExit(f"{folder}: a module cannot be compiled; see above")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    home, criu = Path(sys.argv[1]), Path(sys.argv[2])
    for packages in home.glob("lib/python3*/site-packages"):
        trim(packages)
    for each in (home, criu):
        for cache in sorted(each.rglob("__pycache__")):
            shutil.rmtree(cache)
        compile_all(each)
