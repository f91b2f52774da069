"""The image that `make image` builds: what is in it, what is not, and that it works where pods start it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import pytest
from podman import RESTRICTED, Podman, Security
from support.run import REPOSITORY

from ckptrun import __version__
from ckptrun.criu.program import open_prefix, verify_prefix

if TYPE_CHECKING:
    from conftest import MakePod

pytestmark = pytest.mark.slow

MOST_BYTES = 250_000_000
CAPABILITIES = "SYS_ADMIN SYS_PTRACE SYS_TIME SETUID SETGID SETPCAP SYS_CHROOT DAC_OVERRIDE KILL".split()  # noqa: SIM905
SIDECAR = Security(caps=CAPABILITIES, seccomp="unconfined")
TOOLS = ("pip", "pip3", "gcc", "cc", "c++", "clang", "zig", "ld", "as", "make", "strip", "git")
IMPORTS = """
import blake3, cryptography.hazmat.primitives.ciphers.aead, jsonschema, psutil, psycopg, redis, rich.console, rich.table
import urllib3, yaml, zstandard, ckptrun.cli.main, ckptrun.cli.run, ckptrun.supervisor
import boto3
for service in ("s3", "sts", "sso", "sso-oidc"):
    boto3.client(service, region_name="eu-west-1", aws_access_key_id="a", aws_secret_access_key="b")
assert zstandard.ZstdDecompressor().decompress(zstandard.ZstdCompressor().compress(b"x" * 999)) == b"x" * 999
print("all there")
"""
COMPILED = """
import pathlib, sys
caches = [p for top in ("/opt/ckptrun", "/var/lib/ckptrun") for p in pathlib.Path(top).rglob("*.pyc")]
print(len(caches), {p.read_bytes()[4] for p in caches})
"""


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def run(
    podman: Podman, image: str, *command: str, security: Security | None = None, entry: str = ""
) -> Ended:
    container = podman.run_container(image, *command, entrypoint=entry or None, security=security)
    return Ended(container.wait(), container.out, container.err)


def test_it_says_which_ckptrun_it_is(podman: Podman, ckptrun_image: str):
    shown = run(podman, ckptrun_image, "--version")
    assert (shown.code, shown.out) == (0, f"ckptrun {__version__}\n")
    about = podman("image", "inspect", ckptrun_image).json[0]["Config"]
    assert about["Entrypoint"] == ["ckptrun"]
    assert about["Labels"]["org.opencontainers.image.version"] == __version__
    assert re.fullmatch(r"[0-9a-f]{40}|unknown", about["Labels"]["org.opencontainers.image.revision"])
    assert "ckptrun.image" not in about["Labels"]


def test_it_starts_in_a_container_that_may_do_nothing(podman: Podman, ckptrun_image: str):
    shown = run(podman, ckptrun_image, "--version", security=RESTRICTED)
    assert (shown.code, shown.out) == (0, f"ckptrun {__version__}\n"), shown.err


def test_doctor_finds_its_criu(podman: Podman, ckptrun_image: str):
    asked = run(podman, ckptrun_image, "doctor", "--json", security=SIDECAR)
    checks = {check["name"]: check for check in json.loads(asked.out)["checks"]}
    for name in (
        "criu program",
        "criu version",
        "namespaces",
        "time namespace",
        "ns_last_pid",
        "capabilities",
        "seccomp",
    ):
        assert checks[name]["ok"], checks[name]
    assert "(private)" in checks["criu program"]["detail"]


def test_it_is_small(podman: Podman, ckptrun_image: str):
    assert podman("image", "inspect", ckptrun_image).json[0]["Size"] < MOST_BYTES


def test_nothing_of_its_making_is_left_in_it(podman: Podman, ckptrun_image: str):
    listed = "/var/lib/apt/lists /var/cache/apt /root/.cache /tmp /src /opt/tools /etc/pip.conf /etc/apt/sources.list.d"
    script = (
        f"command -v {' '.join(TOOLS)}; python3 -m pip; find {listed} -type f -size +0c -print 2>/dev/null; "
    )
    script += "find / -xdev -name '*.whl' -print -o -xdev -name ensurepip -print"
    left = run(podman, ckptrun_image, "-c", script, entry="sh")
    assert left.out == ""
    assert "No module named pip" in left.err


def test_no_address_of_the_builders_machine_is_in_it(podman: Podman, ckptrun_image: str):
    text = subprocess.run(
        [
            sys.executable,
            "-c",
            "import build; print(build._pip_settings(), build.base.sources(), build.base.apt_options())",
        ],
        cwd=REPOSITORY / "image",
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    hosts = {urlsplit(url).hostname for url in re.findall(r"https?://[^\s'\"\\]+", text)} - {None}
    folders = set(re.findall(r"file://(/[^\s'\"\\]+)", text))
    words = sorted({*hosts, *folders, str(REPOSITORY)})
    about = podman("image", "inspect", ckptrun_image).out + podman("history", "--no-trunc", ckptrun_image).out
    assert not [word for word in words if word in about]
    patterns = [flag for word in words for flag in ("-e", word)]
    found = run(
        podman, ckptrun_image, "-rIlF", *patterns, "/etc", "/opt", "/root", "/var/lib/ckptrun", entry="grep"
    )
    assert (found.code, found.out) == (1, ""), found.err


def test_its_files_have_one_time_and_its_modules_are_compiled_without(podman: Podman, ckptrun_image: str):
    newer = run(
        podman,
        ckptrun_image,
        "-c",
        "find /usr /opt /var/lib /etc -xdev -newermt '2025-01-01 00:00:01 UTC' -type f",
        entry="sh",
    )
    assert set(newer.out.split()) <= {"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}  # the engine's
    compiled = run(podman, ckptrun_image, "-c", COMPILED, entry="python3")
    count, flags = compiled.out.split(" ", 1)
    assert int(count) > 1000
    assert flags.strip() == "{1}"  # by hash, never looked at again


def test_what_was_trimmed_is_not_missed(podman: Podman, ckptrun_image: str):
    done = run(podman, ckptrun_image, "-c", IMPORTS, entry="/opt/ckptrun/bin/python")
    assert done.out == "all there\n", done.err


def test_the_init_container_fills_the_pods_volume(pod: MakePod, ckptrun_image: str, base_image: str):
    made = pod()
    volume = made.empty_dir("ckptrun")
    mount = (volume, "/ckptrun", "rw")
    init = made.run(
        ckptrun_image,
        "kube",
        "install",
        "/ckptrun",
        volumes=[mount],
        security=Security(caps=(), read_only=True),
    )
    assert init.wait() == 0, init.err
    verify_prefix(volume / "criu")
    criu = [word.replace(str(volume), "/ckptrun") for word in open_prefix(volume / "criu").argv]
    there = made.run(
        base_image, *criu, "--version", volumes=[(volume, "/ckptrun", "ro")], security=RESTRICTED
    )
    assert there.wait() == 0, there.err
    assert "Version: 4." in there.out


def test_a_volume_that_is_too_small_is_refused(pod: MakePod, ckptrun_image: str):
    made = pod()
    volume = made.empty_dir("ckptrun", size=4 << 20)
    init = made.run(ckptrun_image, "kube", "install", "/ckptrun", volumes=[(volume, "/ckptrun", "rw")])
    assert init.wait() != 0
    assert "sizeLimit" in init.err
