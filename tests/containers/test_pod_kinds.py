"""Pods that the chart makes beside its usual ones: of `helm test`, for old clusters, with next to nothing in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import stories
from charted import RESTORED
from support import chart
from test_pod_sidecar import STARTED_AGAIN
from test_shim_images import copy_busybox, imported

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Install
    from kubelet import Kubelet
    from podman import Podman

pytestmark = pytest.mark.slow


def test_helm_test_examines_the_machine_and_the_store(install: Install, kubelet: Kubelet):
    release = install()
    (pod,) = (one for one in chart.documents(release.text) if one["kind"] == "Pod")
    played = kubelet.play(pod, release.cluster, ports=[release.port])
    assert played.wait() == "Succeeded", played.story()
    assert played.code("doctor") == 0
    said = played.log("doctor").splitlines()
    assert f"ok      store: {release.store} can be written and honours preconditions" in said


def test_an_old_clusters_pod_that_is_told_to_end_is_continued_by_the_next(install: Install):
    """The sidecar is an ordinary container there (`--once`), and gets its SIGTERM at the same time as the job's."""
    release = install(version=chart.OLDEST, job={"args": ["7"]})
    assert {one["name"] for one in chart.pod_spec(release.manifest)["containers"]} == {"ckptrun", "job"}
    stories.told_to_end(release, 7)


def test_an_old_clusters_killed_sidecar_is_followed_by_one_that_goes_on(install: Install):
    stories.outlasted(install(version=chart.OLDEST, **STARTED_AGAIN))


LOOP = """
n=0
while [ $n -lt 40 ] || [ -e /data/hold ]; do n=$((n+1)); echo $n; echo $n >> /data/log.txt; /busybox sleep 0.05; done
echo result
exit 9
"""


@pytest.fixture
def bare(podman: Podman, tmp_path: Path) -> str:
    """An image of one static program."""
    folder = tmp_path / "bare"
    folder.mkdir()
    copy_busybox(folder / "busybox")
    return imported(podman, folder)


def test_a_job_image_of_one_static_program_is_enough(install: Install, bare: str):
    """No libc, no /tmp, no /etc: killed, restored, told to end, and gone on with by the next pod."""
    release = install(image=bare, job={"command": ["/busybox", "ash", "-c", LOOP]})
    release.hold()
    pod = release.play()
    pod.until("lines", lambda: len(pod.out) > 10)
    pod.checkpoint()
    pod.restored(pod.kill_job)
    assert pod.played.terminate(stories.GRACE) == "Failed"
    assert pod.played.code("job") == 75, pod.told()
    counted = [int(line) for line in release.lines()]
    assert counted == list(range(1, len(counted) + 1))
    pod.expect_nothing_left()
    again = release.play()
    again.event(RESTORED)
    release.release()
    assert again.played.wait() == "Failed"
    assert again.played.code("job") == 9, again.told()
    whole = [int(line) for line in release.lines()]
    assert whole == list(range(1, len(whole) + 1))
    expected = [*map(str, whole[len(counted) :]), "result"]
    assert again.out[: len(expected)] == expected  # it fails, and is tried again: then there is more
    again.expect_nothing_left()
