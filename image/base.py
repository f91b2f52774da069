"""Make a local Debian base image without any image registry: mmdebstrap, then `podman import`.

    python image/base.py        prints its name

Called by `make image` where no registry answers, and by the tests of containers. The packages come from the
archive that this machine's apt uses, whose address is not in the image. It depends on the packages' versions
only: no time in it is later than `EPOCH`.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from ckptrun.criu import debian
from ckptrun.criu.install import read_release

SUITE = "trixie"
PACKAGES = ("python3", "ca-certificates")
LEFT_OUT = ("doc", "man", "locale", "info", "lintian", "bug", "bash-completion", "zsh")
"""Folders of /usr/share that nobody reads in a container."""
EPOCH = "1735689600"
_NO_SOURCES = 'rm -rf "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/*'
_CLEANED = (
    # What remembers this machine or the time of the build.
    'rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/* "$1"/var/log/* "$1"/var/cache/debconf/*-old',
    'rm -rf "$1"/var/lib/dpkg/*-old "$1"/var/cache/ldconfig/aux-cache "$1"/etc/machine-id "$1"/etc/hostname',
    'rm -f "$1"/etc/resolv.conf "$1"/etc/apt/apt.conf.d/99mmdebstrap',
)


def recipe() -> str:
    """Return a short digest of everything here that decides what is in the image."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]


def sources() -> str:
    """Return deb822 stanzas for `SUITE`, from wherever this machine gets its own packages."""
    release = read_release(Path("/etc/os-release"))
    own = debian.machine_sources(Path("/etc/apt"))
    debians = [source for source in own if release.get("ID") == "debian" and "main" in source.components]
    main = debian.archive(debians, release.get("VERSION_CODENAME", ""))
    if main is None:
        return ""
    security = next((one for one in debians if any(name.endswith("-security") for name in one.suites)), None)
    stanzas = [main.for_suite(f"{SUITE} {SUITE}-updates", ("main",))]
    if security is not None:
        stanzas.append(security.for_suite(f"{SUITE}-security", ("main",)))
    return "\n".join(stanzas)


def ensure() -> str:
    """Return the image's name, after making it if it is not there."""
    tag = f"localhost/ckptrun-base:{recipe()}"
    there = subprocess.run(["podman", "image", "exists", tag], check=False).returncode == 0  # noqa: S607
    if not there:
        build(tag)
    return tag


def build(tag: str) -> None:
    """Make the image and name it `tag`; takes some 30 s.

    Raises:
        SystemExit: it could not be made; what mmdebstrap said has gone to standard error.
    """
    with tempfile.TemporaryDirectory(prefix="ckptrun-base-") as folder:
        tar = Path(folder, "base.tar")
        command = [
            "mmdebstrap",
            "--quiet",
            "--mode=root",
            "--variant=minbase",
            f"--include={','.join(PACKAGES)}",
            *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in LEFT_OUT),
            "--dpkgopt=path-include=/usr/share/doc/*/copyright",
            *(f"--aptopt={line}" for line in apt_options()),
            *(f"--customize-hook={hook}" for hook in _CLEANED),
        ]
        if stanzas := sources():
            (listed := Path(folder, "base.sources")).write_text(stanzas, encoding="utf-8")
            command += [f"--customize-hook={_NO_SOURCES}", SUITE, str(tar), str(listed)]
        else:
            command += [SUITE, str(tar)]  # mmdebstrap knows Debian's own archive, and names it in the image
        _run(command)
        _run(["podman", "import", "--quiet", "--change=CMD=/bin/bash", str(tar), tag])


def apt_options() -> list[str]:
    """Return how this machine's apt reaches its archive: proxies, certificates, leniences."""
    command = ["apt-config", "dump", "Acquire"]
    dump = subprocess.run(command, capture_output=True, text=True, check=True)
    wanted = ("Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Retries")
    lines = [line for line in dump.stdout.splitlines() if line.startswith(wanted) and '""' not in line]
    return [*lines, 'Acquire::Retries "5";']


def _run(command: list[str]) -> None:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH, "LC_ALL": "C"}
    if (status := subprocess.run(command, env=environment, stdout=sys.stderr, check=False).returncode) != 0:
        raise SystemExit(f"the base image could not be made: {command[0]} ended with {status}; see above")


if __name__ == "__main__":
    sys.stdout.write(ensure() + "\n")
