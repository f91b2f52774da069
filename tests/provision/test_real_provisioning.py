"""Real downloads into a temporary folder, as root and as an ordinary user; what was made must really work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ckptrun.criu import debian, install, probe, program

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).parents[2]
STRANGER = 5678  # a user id that is nobody's
REPORT = """
import json, os, sys
from ckptrun.criu import provision
env = dict(os.environ)
criu = provision.provide(env)
print(json.dumps({
    "uid": os.getuid(), "argv": criu.argv, "version": criu.version, "prefix": str(criu.prefix),
    "checks": [[check.name, check.ok, check.detail] for check in provision.check(criu, env)],
}))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("apt-get") is None, reason="packages come by apt"),
]


def provide_as(user: int, home: Path, **env: str) -> dict[str, Any]:
    """Provide CRIU in a process of that user, which has only the standard library and ckptrun's sources."""
    home.mkdir(exist_ok=True)
    os.chown(home, user, user)
    sources = home / "sources"
    if not sources.exists():
        shutil.copytree(
            REPOSITORY / "ckptrun", sources / "ckptrun", ignore=shutil.ignore_patterns("__pycache__")
        )
    environment = {
        "HOME": str(home),
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": str(sources),
        **env,
    }
    identity = {"user": user, "group": user, "extra_groups": []} if user else {}
    done = subprocess.run(
        [python_for(user), "-c", REPORT],
        cwd="/", env=environment, capture_output=True, text=True, check=False, timeout=300, **identity,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def python_for(user: int) -> str:
    """Return an interpreter that the user may execute: the tests' own may lie in root's home."""
    candidates = [sys.executable, sysconfig.get_config_var("BINDIR") + "/python3", "/usr/bin/python3"]
    for candidate in candidates if user else [sys.executable]:
        wanted = "import sys, json; sys.exit(sys.version_info < (3, 11))"
        try:
            done = subprocess.run(
                [candidate, "-c", wanted],
                user=user,
                group=user,
                extra_groups=[],
                cwd="/",
                check=False,
                env={},
            )
        except OSError:
            continue
        if done.returncode == 0:
            return candidate
    pytest.skip("no Python 3.11 that another user may execute")


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(
        prefix="provision-"
    ) as name:  # pytest's folders are closed to other users
        Path(name).chmod(0o755)
        yield Path(name) / "home"


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users")
@pytest.mark.parametrize("user", [0, STRANGER])
def test_a_prefix_is_provided_works_for_its_user_and_changes_nothing_of_the_system(home: Path, user: int):
    prefix = home / "prefix"
    before = fingerprint()
    first = provide_as(user, home, CKPTRUN_CRIU_PREFIX=str(prefix))
    assert fingerprint() == before
    assert first["prefix"] == str(prefix)
    assert tuple(first["version"]) >= program.MINIMUM
    assert [check for check in first["checks"] if not check[1]] == []
    assert [check[0] for check in first["checks"]] == [
        "criu program",
        "criu version",
        "criu check",
        "criu tcp",
    ]
    assert (home / "prefix").stat().st_uid == user
    made = (prefix / program.MARKER).stat().st_mtime_ns

    provide_as(user, home, CKPTRUN_CRIU_PREFIX=str(prefix))
    assert (prefix / program.MARKER).stat().st_mtime_ns == made, "a good prefix was made again"

    (prefix / "usr/sbin/criu").write_bytes(b"cut")
    again = provide_as(user, home, CKPTRUN_CRIU_PREFIX=str(prefix))
    assert again["version"] == first["version"]
    assert (prefix / program.MARKER).stat().st_mtime_ns != made, "a broken prefix was kept"

    decode_with(again, home)


def decode_with(report: dict[str, Any], home: Path) -> None:
    """Dump a process with the provided CRIU and read the images with its pycriu, under our own protobuf."""
    images = home / "images"
    images.mkdir()
    selftest = REPOSITORY / "ckptrun/criu/selftest.py"
    options = ["--tcp-established", "--network-lock", "nftables"]
    subprocess.run(
        [
            "unshare",
            "-npf",
            "--mount-proc",
            sys.executable,
            "-I",
            selftest,
            images,
            "yes",
            *options,
            "--",
            *report["argv"],
        ],
        check=True,
    )
    code = """
import sys
from pathlib import Path
from ckptrun.criu import pycriu_import
before = list(sys.path)
for file in Path(sys.argv[2]).glob("*.img"):
    if not file.name.startswith("pages-"):
        images = pycriu_import.images(Path(sys.argv[1]))
        image = images.loads(file.read_bytes())
        print(image["magic"], len(image["entries"]))
        assert images.dumps(image) == file.read_bytes(), file
assert sys.path == before
"""
    pycriu = Path(report["prefix"], "pycriu-site")
    done = subprocess.run(
        [sys.executable, "-c", code, pycriu, images], env={"PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "PSTREE 1" in done.stdout
    assert "TCP_STREAM 1" in done.stdout


def fingerprint() -> dict[str, int]:
    """Return the times of what an ordinary apt-get would have touched."""
    watched = [Path("/var/lib/dpkg/status"), Path("/etc/apt"), Path("/etc/apt/sources.list.d")]
    watched += [*Path("/var/lib/apt/lists").glob("*"), Path("/var/cache/apt/archives"), Path("/usr/sbin")]
    return {str(path): path.stat().st_mtime_ns for path in watched if path.exists()}


@pytest.mark.skipif(os.geteuid() != 0, reason="dumps as root")
def test_a_criu_that_cannot_dump_tcp_on_a_new_kernel_is_found_out(tmp_path: Path):
    """Debian 13's 4.1.1 passes its own check, starts, and fails only at a socket."""
    if tuple(int(part) for part in os.uname().release.split(".")[:2]) < (6, 16):
        pytest.skip("the defect shows on newer kernels")
    release = install.read_release(Path("/etc/os-release"))
    source = debian.archive(debian.machine_sources(Path("/etc/apt")), release.get("VERSION_CODENAME", ""))
    if release.get("ID") != "debian" or source is None:
        pytest.skip("Debian's archive has that version")
    apt = debian.PrivateApt(tmp_path, source.for_suite("trixie", ["main"]))
    apt.update()
    debian.unpack(apt.download(apt.closure("criu")), tmp_path / "unpacked")
    old = program.unsealed_program(tmp_path / "unpacked", (4, 1, 1))
    assert probe.ask_version(old.argv)[0][:2] == (4, 1)
    assert probe._ask_check(old) == ""
    assert "Can't get 1:16 opt" in probe._ask_tcp(old)
