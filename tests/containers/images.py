"""Images for the tests: made by the code of `make image`, kept on the machine, and not too many of them."""

from __future__ import annotations

import fcntl
import hashlib
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from support.run import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from podman import Podman

TEST_IMAGE = "localhost/ckptrun-test"
BUILD_SECONDS = 1800.0
_KEPT = 4
_SOURCES = (
    "ckptrun",
    "hooks",
    "image",
    "Dockerfile",
    ".dockerignore",
    "pyproject.toml",
    "hatch_build.py",
    "README.md",
)
_NOT_SOURCES = frozenset({"__pycache__", "bin"})


def sources_digest() -> str:
    """Return a digest of all that the image is made of."""
    digest = hashlib.sha256()
    for source in (REPOSITORY / name for name in _SOURCES):
        for path in sorted(source.rglob("*")) if source.is_dir() else [source]:
            if path.is_file() and not _NOT_SOURCES & set(path.parts[len(REPOSITORY.parts) :]):
                digest.update(f"{path.relative_to(REPOSITORY)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def made_base(podman: Podman) -> str:
    """Return the name of an image of Debian with Python; made once on a machine, and kept."""
    with images_locked():
        return podman.enter(sys.executable, REPOSITORY / "image/base.py").out.strip()


def made_image(podman: Podman, base_image: str) -> str:
    """Return the name of this checkout's image, as `make image` builds it; made once for each state of the sources."""
    tag = f"{TEST_IMAGE}:{sources_digest()}"
    with images_locked():
        if not podman.has_image(tag):
            build = ("image/build.py", "--base", base_image, "--tag", tag)
            podman.enter(sys.executable, REPOSITORY / build[0], *build[1:], timeout=BUILD_SECONDS)
            forget_old_images(podman, tag)
    return tag


def forget_old_images(podman: Podman, tag: str) -> None:
    """Remove all but `tag` and the newest few images of earlier states; one that a container uses stays."""
    listed = podman("images", "--format=json", f"--filter=reference={TEST_IMAGE}").json
    newest = sorted(listed, key=lambda one: one["Labels"]["org.opencontainers.image.created"], reverse=True)
    for old in [one for one in newest if tag not in one["Names"]][_KEPT:]:
        podman("rmi", *old["Names"], check=False)


@contextmanager
def images_locked() -> Iterator[None]:
    """Have one process at a time make images: a session of pytest has several."""
    path = Path(tempfile.gettempdir(), "ckptrun-test-images.lock")
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
