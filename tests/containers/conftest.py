"""Podman for the session, its images, and pods for a test. Skips, with the reason, where no container can be run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pytest
from charted import Release
from images import made_base, made_image
from kubelet import Kubelet
from podman import Podman, why_not
from pods import Pod
from support import chart
from support.cluster import StandIn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.s3 import S3Server


@pytest.fixture(scope="session")
def podman() -> Iterator[Podman]:
    if reason := why_not():
        pytest.skip(reason)
    with Podman() as podman:
        yield podman


@pytest.fixture(scope="session")
def base_image(podman: Podman) -> str:
    """Debian with Python; made once on a machine, and kept."""
    return made_base(podman)


@pytest.fixture(scope="session")
def ckptrun_image(podman: Podman, base_image: str) -> str:
    """The image of this checkout, as `make image` builds it; made once for each state of the sources."""
    return made_image(podman, base_image)


class MakePod(Protocol):
    """Makes a pod; see `Pod`."""

    def __call__(self, *, share_pid: bool = True, host_network: bool = False) -> Pod: ...


@pytest.fixture
def pod(podman: Podman, base_image: str, tmp_path: Path) -> Iterator[MakePod]:
    """Make pods; they are gone when the test is over."""
    pods: list[Pod] = []

    def make(*, share_pid: bool = True, host_network: bool = False) -> Pod:
        folder = tmp_path / f"pod{len(pods)}"
        pods.append(made := Pod(podman, base_image, folder, share_pid=share_pid, host_network=host_network))
        return made

    yield make
    for one in pods:
        one.remove()


@pytest.fixture
def kubelet(podman: Podman, base_image: str, tmp_path: Path) -> Iterator[Kubelet]:
    """Play manifests; their pods are gone when the test is over."""
    played = Kubelet(podman, base_image, tmp_path)
    yield played
    played.close()


class Install(Protocol):
    """Installs the chart; see `Release`. `image` is the job's, if another than the one it has."""

    def __call__(
        self, *, api: StandIn | None = None, image: str = "", version: str = chart.NEWEST, **values: Any
    ) -> Release: ...


@pytest.fixture
def api(tmp_path: Path) -> Iterator[StandIn]:
    """The API of a cluster, as a stand-in; what was written to it must have been flawless."""
    with StandIn(tmp_path / "cluster") as made:
        made.namespace = chart.NAMESPACE
        yield made
        assert made.state.problems == []


@pytest.fixture
def install(
    kubelet: Kubelet, podman: Podman, s3_server: S3Server, base_image: str, ckptrun_image: str, tmp_path: Path
) -> Iterator[Install]:
    """Install the chart; nothing of its pods is left when the test is over."""
    releases: list[Release] = []

    def made(
        *, api: StandIn | None = None, image: str = "", version: str = chart.NEWEST, **values: Any
    ) -> Release:
        folder = tmp_path / f"release{len(releases)}"
        folder.mkdir()
        job = image or (ckptrun_image if values.get("mode") == "wrapper" else base_image)
        images = {"job": job, "ckptrun:test": ckptrun_image}
        releases.append(release := Release(kubelet, podman, s3_server, images, folder, values, api, version))
        return release

    yield made
    kubelet.close()
    assert [process for release in releases for process in release.processes()] == []
