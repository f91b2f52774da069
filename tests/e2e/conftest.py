"""A machine for every test."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hooked import hook
from support import as_user
from support.as_user import NOBODY, UNNAMED
from support.pod import Pod
from support.postgres import postgres_server
from support.run import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["hook", "postgres_server"]

QUIET = ("--interval", "off")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path, options=QUIET) as lab:
        yield lab
        lab.close()
        lab.expect_nothing_left()


@pytest.fixture
def held(lab: Lab) -> None:
    """For tests that end a job with `Run.finish`: until then it does not take its last step."""
    lab.hold()


@pytest.fixture
def pod() -> Iterator[Pod]:
    """A pod without a kubelet, whose jobs do not take their last step until `Pod.release`."""
    with Pod() as pod:
        pod.hold()
        yield pod
        pod.close()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user may enter: pytest's own are root's."""
    folder = Path(tempfile.mkdtemp(prefix="lab-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def give(lab: Lab, uid: int) -> None:
    for path in (lab.folder, lab.work, lab.home):
        os.chown(path, uid, uid)


@pytest.fixture
def sudo(open_folder: Path) -> Iterator[Lab]:
    """A machine whose ckptrun is started by nobody, with sudo; for tests that run as root."""
    environment = {"SUDO_UID": str(NOBODY), "SUDO_GID": str(NOBODY), "SUDO_USER": "nobody"}
    prefix = as_user.command(0, 0, open_folder / "home")
    with Lab(open_folder, prefix=prefix, environment=environment, options=QUIET) as lab:
        give(lab, NOBODY)
        yield lab
        lab.close()
        lab.expect_nothing_left()


@pytest.fixture
def ordinary(open_folder: Path) -> Iterator[Lab]:
    """A machine whose ckptrun is started by an ordinary user; for tests that run as root."""
    prefix = as_user.command(UNNAMED, UNNAMED, open_folder / "home")
    with Lab(open_folder, prefix=prefix, options=QUIET) as lab:
        give(lab, UNNAMED)
        yield lab
        lab.close()
        lab.expect_nothing_left()
