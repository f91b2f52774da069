"""What goes wrong with a pod of the chart is said in its logs and in its Events, with what to do."""

from __future__ import annotations

import ctypes
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

LEASE_ERROR, CONFIGURATION, NO_PROGRAM, NO_CHECKPOINT = 79, 78, 127, 76
LIBC = ctypes.CDLL(None)
LANDLOCKED = """
import ctypes, os, struct, sys
call = ctypes.CDLL(None, use_errno=True).syscall
ruleset = call(444, ctypes.create_string_buffer(struct.pack("Q", 1 << 11)), 8, 0)
assert ruleset >= 0 and call(446, ruleset, 0) == 0, os.strerror(ctypes.get_errno())
os.execvp(sys.argv[1], sys.argv[1:])
"""
"""Lets a program go on within a domain of Landlock's: no mounts, no look into processes that are not in it."""


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


def told(pod: ChartedPod, reason: str, *texts: str, container: str = "") -> None:
    """See that a container's log and an Event have these texts, and that the job has done nothing."""
    pod.shows(reason, *texts)
    said = pod.played.log(container or pod.agent, "stderr")
    assert all(text in said for text in texts), pod.told()
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


def test_a_bucket_that_cannot_be_written_is_named_while_the_job_runs(install: Install, api: StandIn):
    release = install(api=api)
    release.cluster.secrets["bucket"].update(  # type: ignore[attr-defined]
        AWS_ACCESS_KEY_ID="reader", AWS_SECRET_ACCESS_KEY="reader-secret"
    )
    pod = release.play()
    pod.shows("StoreUnusable", f"cannot write {release.store}", "check the credentials and their rights")
    assert "check the credentials and their rights" in pod.said
    stories.ended_well(release, pod)


def test_a_secret_with_an_empty_item_is_named(install: Install, api: StandIn):
    release = install(api=api)
    release.cluster.secrets["bucket"]["AWS_SECRET_ACCESS_KEY"] = ""  # type: ignore[index]
    pod = release.play()
    assert pod.played.wait() == "Failed"
    assert pod.played.code("job") == CONFIGURATION
    told(pod, "BadConfiguration", "CKPTRUN_AWS_SECRET_ACCESS_KEY is empty", "kubectl create secret generic")


def test_a_volume_that_is_full_is_named_by_the_init_container(install: Install, api: StandIn):
    release = install(api=api, sidecar={"sizeLimit": "4Mi"})
    pod = release.play()
    assert pod.played.wait() == "Failed"
    told(pod, "BadConfiguration", "No space left on device", "sizeLimit", container="ckptrun-install")


def test_a_sidecar_of_another_version_than_the_shim_is_named_in_both_containers(
    install: Install, api: StandIn
):
    release = install(api=api)
    install_it = chart.pod_spec(release.manifest)["initContainers"][0]
    command = " ".join(install_it["command"])
    install_it["command"] = ["sh", "-c", f"{command} && echo 0.0.1 >/ckptrun/VERSION"]
    pod = release.play()
    assert pod.played.wait() == "Failed"
    assert pod.played.code("job") == CONFIGURATION
    texts = ("the shim of ckptrun 0.0.1", "the same image")
    assert all(text in pod.played.log("job", "stderr") for text in texts), pod.told()
    told(pod, "BadConfiguration", *texts)


@pytest.mark.parametrize(("mode", "reason"), [("sidecar", "PermissionMissing"), ("wrapper", "StartFailed")])
def test_a_security_module_that_forbids_it_is_told_from_a_capability_that_is_missing(
    install: Install, api: StandIn, mode: str, reason: str
):
    if LIBC.syscall(444, None, 0, 1) < 1:
        pytest.skip("this kernel has no Landlock, which stands for AppArmor and SELinux here")
    release = install(api=api, mode=mode)
    container = _sidecar(release)
    container["command"] = ["python3", "-c", LANDLOCKED, *container["command"]]
    pod = release.play()
    assert pod.played.wait() == "Failed"
    told(pod, reason, "the capabilities are there", "a security module of the node's kernel")


def test_a_program_that_the_jobs_image_does_not_have_is_named(install: Install, api: StandIn):
    release = install(api=api, job={"command": ["/opt/no-python", "train.py"]})
    pod = release.play()
    assert pod.played.wait() == "Failed"
    assert pod.played.code("job") == NO_PROGRAM
    told(pod, "RunFailed", "/opt/no-python")


def test_a_read_only_root_without_ckptruns_volume_is_named(install: Install, api: StandIn):
    release = install(api=api, mode="wrapper")
    container = _sidecar(release)
    container["securityContext"]["readOnlyRootFilesystem"] = True
    container["volumeMounts"] = [one for one in container["volumeMounts"] if one["name"] != "ckptrun"]
    pod = release.play()
    assert pod.played.wait() == "Failed"
    told(pod, "BadConfiguration", "no place for temporary files", "mount an emptyDir there")


def test_a_volume_that_fills_up_later_is_named_when_it_matters_and_the_next_pod_goes_on(
    install: Install, api: StandIn
):
    release = install(api=api, sidecar={"sizeLimit": "48Mi"})
    release.hold()
    pod = release.play()
    pod.prints(stories.STEPS_LATER)
    sidecar = pod.container()
    ask = ("ckptrun", "checkpoint", release.name, "--wait")
    # What says that the job can be gone on with is removed before a dump, and would make room.
    fill = ("sh", "-c", "find /ckptrun/state -name handover.json -delete; cat /dev/zero >/ckptrun/full")
    sidecar.exec(*fill, check=False)
    assert sidecar.exec(*ask, check=False).code == NO_CHECKPOINT
    assert "raise its sizeLimit" in pod.shows(
        "CheckpointFailed", "no room on the filesystem in /ckptrun/work"
    )
    assert "raise its sizeLimit" in pod.said
    sidecar.exec("rm", "/ckptrun/full")
    sidecar.exec(*ask)
    sidecar.exec(*fill, check=False)
    sidecar.exec(*ask)
    assert "No space left on device" in pod.said
    pod.kill_job()
    told = pod.shows("RestoreFailed", "/ckptrun/state", "No space left on device", "raise its sizeLimit")
    assert told.partition(": ")[2] in pod.said
    assert pod.played.wait() == "Failed"
    again = release.play()
    again.shows("RestoredFromCheckpoint")
    release.release()
    assert again.played.wait() == "Succeeded", again.played.story()
    release.expect_exact()


def test_a_path_to_preserve_that_the_jobs_container_lacks_is_named_before_the_job_begins(
    install: Install, api: StandIn
):
    """The sidecar's own container has it: what counts is the job's."""
    pod = install(api=api, checkpoint={"preserve": ["/data", "/opt/ckptrun"]}).play()
    assert pod.played.wait() == "Failed"
    assert pod.played.code("job") == CONFIGURATION, pod.told()
    told(pod, "BadConfiguration", "CKPTRUN_PRESERVE: /opt/ckptrun does not exist", "from the start")
