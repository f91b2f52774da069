"""What docs/kubernetes.md has a newcomer type, typed: a pod of podman's, killed twice, ends as if it had not been."""

from __future__ import annotations

import hashlib
import re
import shutil
from typing import TYPE_CHECKING

import pytest
from support.run import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from podman import Podman

pytestmark = pytest.mark.slow

_CONFIGURATION = """\
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=10000:10000"]
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
_AFTERWARDS = "podman pod rm --force --time 0 {name}; podman volume rm {name}-shared {name}-store"


def blocks() -> list[str]:
    """Return the commands of the page, block by block."""
    page = (REPOSITORY / "docs/kubernetes.md").read_text(encoding="utf-8")
    return re.findall(r"^```sh walk\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def name(podman: Podman) -> Iterator[str]:
    if shutil.which("catatonit") is None:
        pytest.skip("catatonit is not installed: make test-packages")
    name = podman.name("walk")
    yield name
    podman.enter("sh", "-c", _AFTERWARDS.format(name=name), check=False)


def test_the_page_keeps_its_word(podman: Podman, ckptrun_image: str, name: str, tmp_path: Path):
    (tmp_path / "containers.conf").write_text(_CONFIGURATION, encoding="utf-8")
    script = "\n".join(["set -e", f"cd {tmp_path}", *blocks()])
    script = re.sub(r"\bwalk(-(?:job|ckptrun|shared|store)\b|$)", rf"{name}\1", script, flags=re.MULTILINE)
    script = script.replace("--pod walk", f"--pod {name}").replace("--name walk ", f"--name {name} ")
    script = script.replace("localhost/ckptrun:dev", ckptrun_image)
    done = podman.enter("bash", "-c", script, env={"CONTAINERS_CONF": str(tmp_path / "containers.conf")})

    digest = hashlib.sha256()
    expected = []
    for n in range(1, 31):
        digest.update(f"{n}\n".encode())
        expected.append(f"{n} {digest.hexdigest()[:16]}")
    printed = [line for line in done.out.splitlines() if re.fullmatch(r"\d+ [0-9a-f]{16}", line)]
    assert set(printed) == set(expected)
    first, *rest = [at for at, line in enumerate(printed) if line == expected[0]]
    assert (first, rest) == (0, [])  # nobody began anew
    assert printed[-1] == expected[-1]
    assert "the job runs again" in done.out
    assert "\n7\n" in done.out
