"""A run that finds itself in a pod: what its pod shows, and what it does for it, with an API server over HTTPS."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest
from support import cluster as clusters
from support import pod as sidecars
from support.run import COMMITTED, Lab

from ckptrun.kube.story import CHECKPOINTED, LAST, RESTORED
from ckptrun.kube.wishes import NOW

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

NOWHERE = "bucket"
LOOP = (sys.executable, "-c", "import time\nwhile True:\n    time.sleep(0.05)\n")


@pytest.fixture(params=clusters.kinds())
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[clusters.Cluster]:
    """A cluster of the test's own: it may be stopped."""
    with clusters.make(request.param, tmp_path / "cluster") as made:
        made.add_node()
        made.grant(clusters.ALL_RULES)
        yield made
        if isinstance(made, clusters.StandIn):
            assert made.state.problems == []


@pytest.fixture
def pod(cluster: clusters.Cluster) -> clusters.Pod:
    return cluster.add_pod("train-abcde")


@pytest.fixture
def in_pod(tmp_path: Path, pod: clusters.Pod) -> Iterator[Lab]:
    """A machine whose environment is a container's of the pod: the lineage has the pod's name."""
    with Lab(
        tmp_path / "lab", name="team.train-abcde", options=("--interval", "off"), environment=pod.environ
    ) as made:
        yield made


def reason(pod: clusters.Pod, name: str) -> str:
    """Wait for an Event of this reason and return what it says."""
    return str(clusters.until(name, lambda: pod.events(name))[0]["message"])


def unnamed(lab: Lab) -> list[str]:
    """Return the command line of a run that gets its name from the pod."""
    return lab.argv("run", "--store", lab.store, *lab.options, "--", *LOOP)


def test_a_run_shows_in_its_pod_and_does_what_that_asks(in_pod: Lab, pod: clusters.Pod):
    run = in_pod._started(unnamed(in_pod), -3, -1, -1)
    run.job_pid()
    pod.annotate(NOW, "one")
    committed = run.event(COMMITTED)
    noted = clusters.until("answer", lambda: _last(pod) if _last(pod).get("asked") == "one" else None)
    assert (noted["id"], noted["seq"], noted["trigger"], noted["result"]) == (
        committed["id"], 1, "request", "committed",
    )  # fmt: skip
    assert f"checkpoint {committed['id']} is committed" in reason(pod, "CheckpointCommitted")
    assert pod.conditions[CHECKPOINTED]["status"] == "True"
    assert pod.conditions[RESTORED]["status"] == "False"
    run.restored(run.kill_job)
    assert "restored from checkpoint" in reason(pod, "RestoredFromCheckpoint")
    assert "signal 9" in reason(pod, "JobKilled")
    clusters.until("condition", lambda: pod.conditions[RESTORED]["status"] == "True")
    assert pod.annotations["ckptrun.dev/compat-architecture"]
    (lease,) = pod.cluster.leases()
    assert lease["spec"]["holderIdentity"] == pod.uid
    pod.cluster.cordon()
    run.event("preemption-expected")
    run.until("early checkpoint", lambda: len(in_pod.events(COMMITTED)) == 2)
    assert in_pod.events("checkpoint-staged")[-1]["trigger"] == "preemption"
    assert run.alive()
    assert "takes no more pods" in reason(pod, "PreemptionExpected")
    run.process.terminate()
    assert run.wait().code == 75
    assert reason(pod, "Interrupted")
    (lease,) = pod.cluster.leases()
    assert not lease["spec"].get("holderIdentity")


def test_the_api_server_dies_and_comes_back(in_pod: Lab, pod: clusters.Pod):
    run = in_pod.start(*LOOP)
    run.job_pid()
    clusters.until("annotation", lambda: "ckptrun.dev/compat-kernel" in pod.annotations)
    pod.cluster.stop()
    name = run.checkpoint()
    run.says("cannot be used")
    pod.cluster.start()
    assert name in reason(pod, "CheckpointCommitted")
    pod.annotate(NOW, "again")
    run.commit()
    assert run.stderr is not None
    run.kill_supervisor()
    assert run.stderr.data.count(b"cannot be used") == 1


def test_no_rights_and_no_server_hold_no_run_up(in_pod: Lab, pod: clusters.Pod):
    pod.cluster.grant([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}])
    run = in_pod.start(*LOOP)
    for kind in ("watch pods", "create events", "patch pods/status", "get leases"):
        if kind == "create events":
            run.checkpoint()
        run.says(f"may not {kind}")
    run.checkpoint()
    pod.cluster.stop()
    run.checkpoint()
    run.process.terminate()
    result = run.wait()
    assert result.code == 75
    assert result.err.count("may not") == 4


def test_a_run_that_shall_leave_the_api_alone_does_so_without_a_word(in_pod: Lab, pod: clusters.Pod):
    in_pod.environment = {**pod.environ, "CKPTRUN_KUBE_API": "off"}
    assert in_pod.run("true").err == ""
    assert in_pod.start("/nonexistent/program").wait().code == 127
    assert pod.events() == []
    in_pod.environment = {**pod.environ, "CKPTRUN_SERVICE_ACCOUNT_DIR": "/nonexistent"}
    in_pod.name = "another"
    assert "/nonexistent/token cannot be read" in in_pod.run("true").err


def test_a_run_that_cannot_begin_says_why_in_its_pods_events(in_pod: Lab, pod: clusters.Pod):
    argv = in_pod.argv("run", "--store", "s3://bucket/x", "--", *LOOP)
    assert in_pod._started(argv, -3, -1, -1).wait().code == 78
    assert "set CKPTRUN_PASSPHRASE" in reason(pod, "BadConfiguration")
    assert in_pod.start("/nonexistent/program").wait().code == 127
    assert "/nonexistent/program" in reason(pod, "RunFailed")
    assert len(pod.events()) == 2


def test_a_store_that_cannot_be_used_is_told_of_while_the_job_runs(in_pod: Lab, pod: clusters.Pod):
    in_pod.store = f"s3://{NOWHERE}/x"
    in_pod.options = ("--no-encryption", "--s3-endpoint-url", "http://127.0.0.1:1", "--interval", "off")
    run = in_pod.start(*LOOP)
    assert NOWHERE in reason(pod, "StoreUnusable")
    clusters.until("condition", lambda: pod.conditions.get(CHECKPOINTED, {}).get("status") == "False")
    run.kill_supervisor()


def test_a_pod_that_finds_its_lineage_held_says_by_whom(
    in_pod: Lab, pod: clusters.Pod, tmp_path: Path, cluster: clusters.Cluster
):
    run = in_pod.start(*LOOP)
    run.job_pid()
    clusters.until("lease", cluster.leases)
    other = cluster.add_pod("train-fghij")
    with Lab(tmp_path / "other", store=in_pod.store, name=in_pod.name, environment=other.environ) as second:
        second.work = in_pod.work
        result = second.start(*LOOP).wait()
        assert result.code == 79
        assert f"pod train-abcde ({pod.uid}) on node node-1" in result.err
        assert "pod train-abcde" in reason(other, "LineageHeld")
        second.options = ("--take-over", "--interval", "off")
        after = second.start(*LOOP)
        assert run.wait().code == 79
        assert "was taken over" in reason(pod, "Fenced")
        after.until("lease", lambda: cluster.leases()[0]["spec"].get("holderIdentity") == other.uid)
        after.kill_supervisor()


def test_a_sidecar_tells_of_the_job_beside_it(pod: clusters.Pod):
    with sidecars.Pod() as two:
        two.hold()
        told = [f"{key}={value}" for key, value in pod.environ.items()]
        two.sidecar("--interval", "off", prefix=("env", *told, *sidecars._SIDECAR))
        job = two.job("count.py", "--steps", "60", "--talk")
        two.lines(10)
        pod.annotate(NOW, "one")
        name = two.event(COMMITTED)["id"]
        assert name in reason(pod, "CheckpointCommitted")
        os.kill(two.job_pid(), signal.SIGKILL)
        assert name in reason(pod, "RestoredFromCheckpoint")
        two.release()
        assert job.wait().code == 0


def test_a_sidecar_without_its_capabilities_says_so_in_its_pods_events(pod: clusters.Pod):
    with sidecars.Pod() as two:
        told = [f"{key}={value}" for key, value in pod.environ.items()]
        alone = ("setpriv", "--bounding-set=-sys_time", "--inh-caps=-all")
        assert two.sidecar(prefix=("env", *told, *alone)).wait().code == 77
        assert "SYS_TIME to securityContext.capabilities" in reason(pod, "PermissionMissing")


def _last(pod: clusters.Pod) -> dict[str, object]:
    return dict(json.loads(pod.annotations.get(LAST, "{}")))
