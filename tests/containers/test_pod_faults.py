"""What goes wrong with a pod of the chart is said in its logs and in its Events, with what to do."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
import stories
from charted import RESTORED, STEPS
from support import chart

if TYPE_CHECKING:
    from charted import ChartedPod, Release
    from conftest import Install
    from support.cluster import StandIn

pytestmark = pytest.mark.slow

LEASE_ERROR = 79


@pytest.mark.parametrize("mode", ["sidecar", "wrapper"])
def test_of_two_pods_of_one_index_the_one_that_lost_the_store_stops_when_it_is_back(
    install: Install, api: StandIn, mode: str
):
    release = install(api=api, mode=mode, kind="IndexedJob")
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
    first.shows("Fenced", "was taken over", second.played.name, "give each a lineage of its own")
    first.expect_nothing_left()
    second.shows("RestoredFromCheckpoint")
    stories.ended_well(release, second)


def _sidecar(release: Release) -> dict[str, Any]:
    """Return the container that checkpoints, to be changed."""
    spec = chart.pod_spec(release.manifest)
    containers = [*spec.get("initContainers", []), *spec["containers"]]
    name = "job" if release.mode == "wrapper" else "ckptrun"
    return next(one for one in containers if one["name"] == name)


@pytest.mark.parametrize("mode", ["sidecar", "wrapper"])
def test_rights_that_the_pod_lacks_are_named_with_the_fields_that_give_them(
    install: Install, api: StandIn, mode: str
):
    release = install(api=api, mode=mode)
    context = _sidecar(release)["securityContext"]
    context["capabilities"] = {"drop": ["ALL"]}
    context["seccompProfile"] = {"type": "RuntimeDefault"}
    told(
        release.play(),
        "PermissionMissing",
        *("lacks ", "SYS_ADMIN", "securityContext.capabilities"),
        *("seccomp filter", "securityContext.seccompProfile.type: Unconfined"),
    )


def test_a_pod_whose_containers_do_not_see_each_others_processes_is_told_the_field(
    install: Install, api: StandIn
):
    release = install(api=api)
    chart.pod_spec(release.manifest)["shareProcessNamespace"] = False
    pod = release.play()
    assert pod.played.wait() == "Failed"
    assert "shareProcessNamespace: true" in pod.played.log("job", "stderr")
    told(pod, "BadConfiguration", "do not see each other's processes", "shareProcessNamespace: true")


def told(pod: ChartedPod, reason: str, *texts: str) -> None:
    """See that what ckptrun says and an Event have these texts, and that the job has done nothing."""
    pod.shows(reason, *texts)
    assert all(text in pod.said for text in texts), pod.told()
    assert pod.release.lines() == []
    pod.expect_nothing_left()


def test_a_bucket_that_cannot_be_written_is_named(install: Install, api: StandIn):
    release = install(api=api, checkpoint={"requireStore": True})
    release.cluster.secrets["bucket"].update(  # type: ignore[attr-defined]
        AWS_ACCESS_KEY_ID="reader", AWS_SECRET_ACCESS_KEY="reader-secret"
    )
    pod = release.play()
    assert pod.played.wait() == "Failed"
    assert pod.played.code("job") == 73, pod.told()
    told(pod, "StoreRefused", f"cannot write {release.store}", "check the credentials and their rights")


def test_a_volume_that_is_full_is_named(install: Install):
    release = install(sidecar={"sizeLimit": "4Mi"})
    pod = release.play()
    assert pod.played.wait() == "Failed"
    assert "sizeLimit" in pod.played.log("ckptrun-install", "stderr"), pod.told()


def test_a_path_to_preserve_that_the_jobs_container_lacks_is_named_before_the_job_begins(
    install: Install, api: StandIn
):
    """The sidecar's own container has it: what counts is the job's."""
    pod = install(api=api, checkpoint={"preserve": ["/data", "/opt/ckptrun"]}).play()
    assert pod.played.wait() == "Failed"
    assert pod.played.code("job") == 78, pod.told()
    told(pod, "BadConfiguration", "CKPTRUN_PRESERVE: /opt/ckptrun does not exist", "from the start")
