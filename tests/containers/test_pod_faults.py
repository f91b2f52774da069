"""What goes wrong with a pod of the chart is said in its logs, with what to do; nothing is done twice."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
import stories
from charted import RESTORED, STEPS
from support import chart

if TYPE_CHECKING:
    from collections.abc import Callable

    from charted import Release
    from conftest import Install

pytestmark = pytest.mark.slow

LEASE_ERROR = 79


@pytest.mark.parametrize("mode", ["sidecar", "wrapper"])
def test_of_two_pods_of_one_index_the_one_that_lost_the_store_stops_when_it_is_back(
    install: Install, mode: str
):
    release = install(mode=mode, kind="IndexedJob")
    job_uid = str(uuid.uuid4())
    first, _ = stories.begun(release, index=0, job_uid=job_uid)
    first.prints(STEPS - 1)  # it writes nothing more to the volume that both have
    first.played.pod.cut_off()
    second = release.play(index=0, job_uid=job_uid)
    second.event(RESTORED)
    assert first.job() is not None, first.told()
    first.played.pod.connect()
    assert first.played.wait() == "Failed"
    assert first.played.code("job") == LEASE_ERROR, first.told()
    assert second.played.name in first.said, first.told()
    first.expect_nothing_left()
    stories.ended_well(release, second)


def _sidecar(release: Release) -> dict[str, Any]:
    """Return the container that checkpoints, to be changed."""
    spec = chart.pod_spec(release.manifest)
    containers = [*spec.get("initContainers", []), *spec["containers"]]
    name = "job" if release.mode == "wrapper" else "ckptrun"
    return next(one for one in containers if one["name"] == name)


def without_capabilities(release: Release) -> None:
    _sidecar(release)["securityContext"]["capabilities"] = {"drop": ["ALL"]}


def with_a_filter(release: Release) -> None:
    _sidecar(release)["securityContext"]["seccompProfile"] = {"type": "RuntimeDefault"}


def with_own_processes(release: Release) -> None:
    chart.pod_spec(release.manifest)["shareProcessNamespace"] = False


FAULTS = [
    ("sidecar", without_capabilities, ["the sidecar lacks ", "SYS_ADMIN", "securityContext.capabilities"]),
    ("wrapper", without_capabilities, ["securityContext.capabilities.add"]),
    ("sidecar", with_a_filter, ["seccomp filter", "securityContext.seccompProfile.type: Unconfined"]),
    ("wrapper", with_a_filter, ["seccomp filter", "securityContext.seccompProfile.type: Unconfined"]),
    ("sidecar", with_own_processes, ["shareProcessNamespace: true"]),
]


@pytest.mark.parametrize(("mode", "fault", "words"), FAULTS)
def test_what_the_pod_lacks_is_named_with_the_field_that_gives_it(
    install: Install, mode: str, fault: Callable[[Release], None], words: list[str]
):
    release = install(mode=mode)
    fault(release)
    pod = release.play()
    for text in words:
        pod.until(text, lambda text=text: text in pod.said + pod.played.log("job", "stderr"))
    pod.expect_nothing_left()
    assert release.lines() == []


def test_a_bucket_that_cannot_be_written_is_named(install: Install):
    release = install(checkpoint={"requireStore": True})
    release.cluster.secrets["bucket"].update(  # type: ignore[attr-defined]
        AWS_ACCESS_KEY_ID="reader", AWS_SECRET_ACCESS_KEY="reader-secret"
    )
    pod = release.play()
    assert pod.played.wait() == "Failed"
    assert pod.played.code("job") == 73, pod.told()
    assert "cannot write s3://" in pod.said, pod.told()
    assert "check the credentials and their rights" in pod.said


def test_a_volume_that_is_full_is_named(install: Install):
    release = install(sidecar={"sizeLimit": "4Mi"})
    pod = release.play()
    assert pod.played.wait() == "Failed"
    assert "sizeLimit" in pod.played.log("ckptrun-install", "stderr"), pod.told()
