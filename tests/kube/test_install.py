"""``ckptrun kube install``: what a pod's init container puts into the volume, whole or not at all."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ckptrun import __version__
from ckptrun.app.installing import install
from ckptrun.capsule import helper
from ckptrun.criu import provision
from ckptrun.criu.program import MARKER, open_prefix, verify_prefix
from ckptrun.errors import ConfigurationError, MissingFeatureError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def prefix() -> Path:
    found = provision.find(os.environ).prefix
    if found is None:
        pytest.skip("CRIU here is the distribution's, which cannot be moved")
    return found


def test_shim_criu_and_version_are_there_afterwards(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "ckptrun", "kube", "install", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    shim = tmp_path / "bin" / "ckptrun-shim"
    assert shim.read_bytes() == helper.find().path.read_bytes()
    assert stat.S_IMODE(shim.stat().st_mode) == 0o755
    verify_prefix(tmp_path / "criu")
    assert (tmp_path / "VERSION").read_text() == f"{__version__}\n"
    assert {path.name for path in tmp_path.iterdir()} == {"bin", "criu", "VERSION"}


def test_criu_runs_from_there(tmp_path: Path):
    install(tmp_path, os.environ)
    criu = open_prefix(tmp_path / "criu")
    done = subprocess.run([*criu.argv, "--version"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in criu.argv[0]


def test_second_time_repairs_what_is_not_whole(tmp_path: Path, prefix: Path):
    install(tmp_path, os.environ)
    whole = (tmp_path / "criu").stat().st_ino
    install(tmp_path, os.environ)
    assert (tmp_path / "criu").stat().st_ino == whole
    damaged = next(path for path in (tmp_path / "criu").rglob("*") if path.is_file() and path.name != MARKER)
    damaged.write_bytes(b"?")
    install(tmp_path, os.environ)
    verify_prefix(tmp_path / "criu")
    assert damaged.read_bytes() == (prefix / damaged.relative_to(tmp_path / "criu")).read_bytes()


def test_folder_that_is_missing_is_named(tmp_path: Path):
    with pytest.raises(ConfigurationError, match=r"there is no folder .*/none; mount the pod's emptyDir"):
        install(tmp_path / "none", os.environ)


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "volume"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)]
    if os.geteuid() or subprocess.run(mount, check=False).returncode:
        pytest.skip("a volume of a size needs root, and leave to mount")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_volume_that_is_too_small_is_said_and_nothing_half_stays(small_volume: Path):
    with pytest.raises(ConfigurationError, match=r"No space left.*; raise the sizeLimit of its emptyDir"):
        install(small_volume, os.environ)
    assert [path.name for path in small_volume.iterdir()] == ["bin"]


def test_distributions_criu_is_refused(tmp_path: Path, prefix: Path):
    own = tmp_path / "own"
    own.mkdir()
    program = own / "criu"
    program.symlink_to(prefix / "usr/sbin/criu")
    (tmp_path / "volume").mkdir()
    nowhere = {"PATH": str(own), "CKPTRUN_CRIU_PREFIX": str(tmp_path / "none")}
    with pytest.raises(MissingFeatureError, match="no CRIU that can be moved to another container was found"):
        install(tmp_path / "volume", nowhere)
    assert not list((tmp_path / "volume").iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="a read-only root needs root")
def test_nothing_but_the_volume_is_written(tmp_path: Path):
    words = [sys.executable, "-B", "-m", "ckptrun", "kube", "install", str(tmp_path)]
    script = 'mount --bind "$1" "$1"; mount -o remount,ro,bind /; shift; exec "$@"'
    inside = ["unshare", "-m", "sh", "-ec", script, "sh", str(tmp_path), *words]
    done = subprocess.run(inside, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    verify_prefix(tmp_path / "criu")
