"""The thread between a run and its pod, with an API server that forbids, forgets, dies and comes back."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pytest
from support.cluster import ALL_RULES, NODE, USER, until

from ckptrun.kube import board, link, watching
from ckptrun.kube.duties import Hands
from ckptrun.kube.link import QUEUE_LIMIT, Link
from ckptrun.kube.story import CHECKPOINTED, LAST
from ckptrun.kube.wishes import NOW
from ckptrun.settings import find_pod

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.cluster import Cluster, Pod, StandIn

pytestmark = pytest.mark.slow

COMMITTED = {"event": "checkpoint-committed", "id": "c1", "seq": 4, "time": "2026-01-01T00:00:00.000Z"}


class World:
    """A run, as far as the link sees it: what it is told, and what it is asked for."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.details: list[str] = []
        self.foreseen: list[tuple[str, bool]] = []
        self.replies: list[Callable[[str | None, str | None], None]] = []
        self.links: list[Link] = []

    def hands(self) -> Hands:
        def foresee(why: str, stop_likely: bool) -> None:
            self.foreseen.append((why, stop_likely))

        return Hands(self.told.append, self.details.append, self.replies.append, foresee)

    def join(self, pod: Pod, **environ: str) -> Link:
        """Start a link of this pod's."""
        known = {**pod.environ, **environ}
        found = find_pod(known)
        assert found is not None
        made = Link(
            found, "s3://bucket/x", pod.name, self.hands(), known, lambda: {"ckptrun.dev/compat-cpu": "x"}
        )
        made.start()
        self.links.append(made)
        return made


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    for each in made.links:
        each.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again soon."""
    for module in (link, watching):
        monkeypatch.setattr(module, "FIRST_PAUSE", 0.05)
        monkeypatch.setattr(module, "LONGEST_PAUSE", 0.2)
    monkeypatch.setattr(board, "AGAIN_SECONDS", 0.1)


def watched(pod: Pod) -> None:
    """Wait until the link has looked at its pod."""
    until("annotation", lambda: "ckptrun.dev/compat-cpu" in pod.annotations)


def test_what_happens_to_a_run_shows_in_its_pod(world: World, pod: Pod):
    joined = world.join(pod)
    joined.observe({"event": "job-restored", "checkpoint": "c0", "age_seconds": 61.0})
    joined.observe(COMMITTED)
    until("condition", lambda: CHECKPOINTED in pod.conditions)
    joined.close()
    (event,) = pod.events("RestoredFromCheckpoint")
    assert event["message"] == "the job runs again, restored from checkpoint c0, taken 1m 01s ago"
    assert pod.events("CheckpointCommitted")
    assert world.told == []


def test_the_end_of_a_run_writes_what_is_left_and_no_more(world: World, standin: StandIn):
    pod = standin.add_pod("ending")
    joined = world.join(pod)
    watched(pod)
    until("lease", standin.leases)
    joined.observe({"event": "run-ended", "exit": {"by": "ckptrun", "code": 75}})
    joined.close()
    assert [event["reason"] for event in pod.events()] == ["Interrupted"]
    assert standin.state.requests.count(("update", "leases", 200)) == 1
    assert not standin.leases()[0]["spec"].get("holderIdentity")
    assert not joined._thread.is_alive()


def test_the_annotation_has_a_checkpoint_taken_whenever_its_value_changes(world: World, pod: Pod):
    world.join(pod)
    watched(pod)
    pod.annotate(NOW, "one")
    until("wish", lambda: len(world.replies) == 1)
    world.replies[0]("c7", None)
    until("answer", lambda: json.loads(pod.annotations.get(LAST, "{}")).get("asked") == "one")
    assert json.loads(pod.annotations[LAST]) == {"asked": "one", "result": "committed", "id": "c7"}
    pod.annotate("something/else", "1")
    pod.annotate(NOW, "two")
    until("second wish", lambda: len(world.replies) == 2)
    world.replies[1](None, "checkpoint c8 failed: no space")
    until("second answer", lambda: json.loads(pod.annotations[LAST]).get("asked") == "two")
    noted = json.loads(pod.annotations[LAST])
    assert (noted["result"], noted["error"]) == ("failed", "checkpoint c8 failed: no space")


def test_a_wish_that_was_answered_is_not_taken_for_a_new_one_by_the_next_container(world: World, pod: Pod):
    pod.annotate(NOW, "one")
    first = world.join(pod)
    until("wish", lambda: len(world.replies) == 1)
    world.replies[0]("c7", None)
    until("answer", lambda: "one" in pod.annotations.get(LAST, ""))
    first.close()
    world.join(pod)
    pod.annotate(NOW, "two")
    until("wish", lambda: len(world.replies) == 2)


def test_a_drain_and_an_eviction_are_foreseen_once(world: World, pod: Pod, cluster: Cluster):
    world.join(pod)
    watched(pod)
    pod.disrupt()
    until("eviction", lambda: world.foreseen)
    pod.delete()
    pod.annotate("something/else", "1")
    assert world.foreseen == [
        ("the pod is going to be disrupted (EvictionByEvictionAPI)", True),
    ]
    cluster.cordon()
    until("drain", lambda: len(world.foreseen) == 2)
    why, stop_likely = world.foreseen[1]
    assert why.startswith(f"node {NODE} takes no more pods")
    assert not stop_likely
    cluster.admin("PATCH", f"/api/v1/nodes/{NODE}", {"spec": {"unschedulable": None, "taints": None}})


@pytest.mark.usefixtures("impatient")
def test_what_happens_while_the_server_is_away_is_told_when_it_is_back(world: World, standin: StandIn):
    pod = standin.add_pod("away")
    joined = world.join(pod)
    watched(pod)
    standin.stop()
    joined.observe(COMMITTED)
    until("complaint", lambda: world.told)
    joined.observe({**COMMITTED, "id": "c2"})
    standin.start()
    until("event", lambda: pod.events("CheckpointCommitted"))
    until("count", lambda: pod.events("CheckpointCommitted")[0]["count"] == 2)
    pod.annotate(NOW, "again")
    until("wish", lambda: world.replies)
    (complaint,) = world.told
    assert complaint.startswith(f"the Kubernetes API at https://127.0.0.1:{standin.port} cannot be used: ")


@pytest.mark.usefixtures("impatient")
def test_a_watch_whose_version_was_forgotten_begins_anew(world: World, standin: StandIn):
    pod = standin.add_pod("forgotten")
    world.join(pod)
    watched(pod)
    for turn in range(3):
        standin.forget()
        pod.annotate(NOW, f"wish {turn}")
        until("wish", lambda count=turn + 1: len(world.replies) == count)
    assert world.told == []
    assert ("list", "pods", 200) not in standin.state.requests


@pytest.mark.usefixtures("impatient")
def test_a_server_that_is_busy_is_asked_again(world: World, standin: StandIn):
    pod = standin.add_pod("busy")
    standin.state.busy = 6
    world.join(pod).observe(COMMITTED)
    until("event", lambda: pod.events("CheckpointCommitted"))


@pytest.mark.usefixtures("impatient")
def test_a_new_token_is_used_as_soon_as_it_is_there(world: World, standin: StandIn):
    pod = standin.add_pod("rotated")
    joined = world.join(pod)
    watched(pod)
    standin.state.users = {"second-token": USER}
    joined.observe(COMMITTED)
    until("complaint", lambda: world.told)
    assert "Unauthorized" in world.told[0]
    standin.set_token("second-token")
    until("event", lambda: pod.events("CheckpointCommitted"))


@pytest.mark.parametrize(
    ("verb", "resource", "group", "lost"),
    [
        ("create", "events", "", "it gets no Events"),
        ("watch", "pods", "", "annotations and evictions are not noticed"),
        ("patch", "pods/status", "", "it gets no conditions and annotations"),
        ("get", "leases", "coordination.k8s.io", "no Lease says who writes the lineage"),
    ],
)
@pytest.mark.usefixtures("impatient")
def test_a_missing_right_is_named_once_and_disables_that_alone(
    world: World, cluster: Cluster, pod: Pod, verb: str, resource: str, group: str, lost: str
):
    rules = [
        {**rule, "verbs": [v for v in rule["verbs"] if rule["resources"] != [resource] or v != verb]}
        for rule in ALL_RULES
    ]
    cluster.grant([rule for rule in rules if rule["verbs"]])
    until("the rights", lambda: _refused(cluster, verb, resource))
    joined = world.join(pod)
    for number in range(3):
        joined.observe({**COMMITTED, "id": f"c{number}"})
    until("complaint", lambda: world.told)
    others = {
        "events": lambda: pod.events("CheckpointCommitted"),
        "pods/status": lambda: CHECKPOINTED in pod.conditions,
        "leases": lambda: any(pod.name in json.dumps(lease) for lease in cluster.leases()),
    }
    others.pop(resource, None)
    for name, holds in others.items():
        until(name, holds)
    joined.close()
    (complaint,) = world.told
    assert complaint == (
        f"the service account trainer may not {verb} {resource}: {lost}; to have it, give its Role the rule "
        f'apiGroups: ["{group}"], resources: ["{resource}"], verbs: ["{verb}"] in namespace team'
    )


def _refused(cluster: Cluster, verb: str, resource: str) -> bool:
    """Ask the server itself whether the right is gone: a real one takes a moment."""
    if cluster.name == "stand-in":
        return True
    group = "coordination.k8s.io" if resource == "leases" else ""
    plural, _, sub = resource.partition("/")
    asked = {"verb": verb, "group": group, "resource": plural, "subresource": sub, "namespace": "team"}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": USER, "resourceAttributes": asked},
    }
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    return not cluster.admin("POST", path, review)["status"]["allowed"]


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"KUBERNETES_SERVICE_HOST": ""}, "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set"),
        ({"CKPTRUN_SERVICE_ACCOUNT_DIR": "/nonexistent"}, "/nonexistent/token cannot be read: No such file"),
    ],
)
def test_without_access_one_warning_says_what_to_do(
    world: World, standin: StandIn, environ: dict[str, str], words: str
):
    joined = world.join(standin.add_pod("alone"), **environ)
    until("warning", lambda: world.told)
    for _ in range(QUEUE_LIMIT * 2):
        joined.observe(COMMITTED)
    joined.close()
    (warning,) = world.told
    assert words in warning
    assert warning.startswith("Kubernetes will not hear of this run, there is no access to its API: ")
    assert joined.lost == 0


def test_a_server_of_another_authority_is_not_trusted(world: World, standin: StandIn, tmp_path: Any):
    from support.cluster import authority  # noqa: PLC0415 -- for this test alone

    authority(tmp_path, standin.account / "ca.crt")
    joined = world.join(standin_pod := _unseen(standin))
    joined.observe(COMMITTED)
    until("complaint", lambda: world.told)
    assert "certificate verify failed" in world.told[0]
    assert not any(request[0] == "create" and request[1] == "events" for request in standin.state.requests)
    assert standin_pod.name


def _unseen(standin: StandIn) -> Pod:
    """A pod that the administrator need not be asked about."""
    from support.cluster import Pod as Made  # noqa: PLC0415 -- likewise

    return Made(standin, "unseen", "unseen-uid")


def test_a_server_that_takes_no_answer_holds_nothing_up(world: World, standin: StandIn):
    pod = standin.add_pod("stuck")
    joined = world.join(pod)
    watched(pod)
    with standin.state.changed:  # every write waits for this lock
        for _ in range(QUEUE_LIMIT * 3):
            joined.observe(COMMITTED)
        assert joined.lost > 0
        ended = threading.Thread(target=lambda: joined.close(0.1))
        ended.start()
        ended.join(30)
        assert not ended.is_alive()
