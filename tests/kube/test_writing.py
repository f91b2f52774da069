"""Events, conditions, annotations and the Lease, as an API server takes them; time is the test's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ckptrun.kube.api import Api, ApiError
from ckptrun.kube.board import AGAIN_SECONDS, NEVER, SERIES_SECONDS, Board
from ckptrun.kube.face import Face
from ckptrun.kube.objects import MESSAGE_BYTES, Notice, short
from ckptrun.kube.presence import HELD_SECONDS, RENEW_SECONDS, Presence
from ckptrun.kube.story import CHECKPOINTED, LAST, RESTORED, Story

if TYPE_CHECKING:
    from support.cluster import Cluster
    from support.cluster import Pod as Seen

    from ckptrun.settings import Pod

START = 1_700_000_000.0
COMMITTED = {"event": "checkpoint-committed", "id": "c1", "seq": 4, "time": "2026-01-01T00:00:00.000Z"}


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def work(board: Board, api: Api, clock: Clock) -> int:
    """Write what is due; return how many requests that took."""
    count = 0
    while board.due() <= clock.now:
        board.work(api)
        count += 1
    return count


def test_the_same_again_is_counted_in_one_event_and_not_written_at_once(
    me: Pod, pod: Seen, api: Api, clock: Clock
):
    board = Board(me, clock)
    for number in range(5):
        board.add(Notice("CheckpointCommitted", f"checkpoint c{number} is committed"))
        assert work(board, api, clock) == (number == 0)
        clock.now += 1
    clock.now += AGAIN_SECONDS
    assert work(board, api, clock) == 1
    (event,) = pod.events()
    assert (event["count"], event["type"]) == (5, "Normal")
    assert event["message"] == "checkpoint c4 is committed"
    assert (event["firstTimestamp"], event["lastTimestamp"]) == (
        "2023-11-14T22:13:20Z",
        "2023-11-14T22:13:24Z",
    )
    assert event["reportingComponent"] == "ckptrun.dev"
    assert event["involvedObject"]["kind"] == "Pod"
    assert board.due() == NEVER


def test_another_reason_and_what_comes_after_a_long_time_are_events_of_their_own(
    me: Pod, pod: Seen, api: Api, clock: Clock
):
    board = Board(me, clock)
    board.add(Notice("CheckpointFailed", "no", warning=True))
    board.add(Notice("Fenced", "gone", warning=True))
    assert work(board, api, clock) == 2
    clock.now += SERIES_SECONDS + 1
    board.add(Notice("Fenced", "gone", warning=True))
    assert work(board, api, clock) == 1
    assert len(pod.events("Fenced")) == 2
    assert {event["type"] for event in pod.events()} == {"Warning"}


def test_an_event_that_is_gone_is_written_anew_with_its_count(
    me: Pod, pod: Seen, cluster: Cluster, api: Api, clock: Clock
):
    board = Board(me, clock)
    board.add(Notice("Fenced", "gone"))
    work(board, api, clock)
    cluster.admin("DELETE", f"/api/v1/namespaces/team/events/{pod.events()[0]['metadata']['name']}")
    board.add(Notice("Fenced", "gone again"))
    board.hurry()
    assert work(board, api, clock) == 1
    assert [(event["count"], event["message"]) for event in pod.events()] == [(2, "gone again")]


def test_a_message_of_any_length_and_any_letters_fits(me: Pod, pod: Seen, api: Api, clock: Clock):
    board = Board(me, clock)
    board.add(Notice("CheckpointFailed", "ü€𝄞\x00\ud800" * 2000))
    work(board, api, clock)
    (event,) = pod.events()
    assert len(event["message"].encode()) <= MESSAGE_BYTES
    assert event["message"].endswith("…")
    assert short("ü" * 600).encode() == ("ü" * 510 + "…").encode()


def test_conditions_and_the_newest_checkpoint_are_written_without_touching_those_of_others(
    me: Pod, pod: Seen, api: Api, clock: Clock
):
    story = Story(clock)
    face = Face(me, story, {"ckptrun.dev/compat-kernel": "6.1"}, clock)
    story.take({"event": "job-started"})
    story.take({"event": "checkpoint-staged", "id": "c1", "trigger": "interval", "frozen_seconds": 0.5})
    story.take({**COMMITTED, "upload_seconds": 2.0})
    face.looked(pod.get())
    face.work(api)
    conditions = pod.conditions
    assert conditions["Ready"]["status"] == "True"
    assert conditions[CHECKPOINTED]["status"] == "True"
    assert conditions[CHECKPOINTED]["message"] == (
        "checkpoint c1 is committed (the job was frozen for 0.5 s; stored in 2 s)"
    )
    assert conditions[RESTORED]["status"] == "False"
    assert pod.annotations["ckptrun.dev/compat-kernel"] == "6.1"
    assert json.loads(pod.annotations[LAST])["id"] == "c1"
    assert face.due() == NEVER
    since = conditions[CHECKPOINTED]["lastTransitionTime"]
    clock.now += 100
    story.take({**COMMITTED, "id": "c2"})
    face.work(api)
    assert pod.conditions[CHECKPOINTED]["lastTransitionTime"] == since
    story.take({"event": "checkpoint-failed", "id": "c3", "reason": "a TCP connection; close it"})
    face.work(api)
    assert pod.conditions[CHECKPOINTED]["status"] == "False"
    assert pod.conditions[CHECKPOINTED]["lastTransitionTime"] == "2023-11-14T22:15:00Z"


def test_a_condition_that_turns_is_written_soon_and_a_new_message_later(
    me: Pod, pod: Seen, api: Api, clock: Clock
):
    story = Story(clock)
    face = Face(me, story, {}, clock)
    story.take(COMMITTED)
    face.looked(pod.get())
    face.work(api)
    story.take({**COMMITTED, "id": "c2"})
    assert face.due() == clock.now + 15.0
    story.take({"event": "commit-failed", "id": "c3", "reason": "access denied", "transient": False})
    assert face.due() == clock.now + 1.0


def test_a_container_started_again_goes_on_with_what_its_pod_says(me: Pod, pod: Seen, api: Api, clock: Clock):
    first = Story(clock)
    first.take(COMMITTED)
    face = Face(me, first, {}, clock)
    face.work(api)
    clock.now += 1000
    second = Story(clock)
    face = Face(me, second, {}, clock)
    second.adopt(pod.get())
    face.looked(pod.get())
    assert face.due() == NEVER
    second.take({**COMMITTED, "id": "c2"})
    face.work(api)
    assert pod.conditions[CHECKPOINTED]["lastTransitionTime"] == "2023-11-14T22:13:20Z"
    assert "c2" in pod.conditions[CHECKPOINTED]["message"]


def test_another_pod_of_the_same_name_is_left_alone(
    me: Pod, pod: Seen, cluster: Cluster, api: Api, clock: Clock
):
    pod.delete(grace=0)
    again = cluster.add_pod(pod.name)
    story = Story(clock)
    story.take(COMMITTED)
    face = Face(me, story, {}, clock)
    with pytest.raises(ApiError) as caught:
        face.work(api)
    assert caught.value.status == 422
    assert CHECKPOINTED not in again.conditions
    assert face.due() == NEVER


# --- the Lease


def presence(me: Pod, clock: Clock, told: list[Notice], lineage: str = "") -> Presence:
    return Presence(me, "s3://bucket/x", lineage or me.name, clock, told.append)


def lease(cluster: Cluster, lineage: str) -> dict[str, Any]:
    noted = {entry["metadata"]["annotations"]["ckptrun.dev/lineage"]: entry for entry in cluster.leases()}
    return dict(noted[lineage])


def test_a_run_holds_its_lineages_lease_renews_it_and_lets_it_go(
    me: Pod, cluster: Cluster, api: Api, clock: Clock
):
    told: list[Notice] = []
    held = presence(me, clock, told)
    held.work(api)
    found = lease(cluster, me.name)
    assert found["spec"]["holderIdentity"] == me.uid
    assert found["metadata"]["ownerReferences"][0]["uid"] == me.uid
    assert held.due() == clock.now + RENEW_SECONDS
    clock.now += RENEW_SECONDS
    held.work(api)
    renewed = lease(cluster, me.name)["spec"]
    assert renewed["renewTime"] == "2023-11-14T22:13:40.000000Z"
    assert renewed["acquireTime"] == found["spec"]["acquireTime"]
    held.hurry()
    held.work(api)
    assert not lease(cluster, me.name)["spec"].get("holderIdentity")
    assert held.due() == NEVER
    assert told == []


def test_another_pod_that_holds_the_lease_is_named_and_the_next_one_takes_it(
    me: Pod, cluster: Cluster, api: Api, clock: Clock
):
    told: list[Notice] = []
    other = Presence(
        type(me)("team", "elsewhere", "other-uid", "node-9"), "s3://bucket/x/", me.name, clock, told.append
    )
    other.work(api)
    clock.now += 10
    mine = presence(me, clock, told)
    mine.work(api)
    assert [notice.reason for notice in told] == ["LineageHeldElsewhere"]
    assert "pod elsewhere (other-uid) on node node-9, which said so 10 s ago" in told[0].message
    assert lease(cluster, me.name)["spec"]["holderIdentity"] == me.uid
    assert lease(cluster, me.name)["spec"]["leaseTransitions"] == 1
    clock.now += RENEW_SECONDS
    other.work(api)  # its version is old: it looks again
    clock.now += 1
    other.work(api)
    assert len(told) == 2
    assert other.due() == NEVER or other.due() > clock.now


def test_a_lease_that_was_not_renewed_is_taken_without_a_word(me: Pod, api: Api, clock: Clock):
    told: list[Notice] = []
    presence(type(me)("team", "dead", "dead-uid"), clock, told, me.name).work(api)
    clock.now += HELD_SECONDS + 1
    presence(me, clock, told).work(api)
    assert told == []


def test_a_lease_that_somebody_removed_is_made_again(me: Pod, cluster: Cluster, api: Api, clock: Clock):
    held = presence(me, clock, [])
    held.work(api)
    name = lease(cluster, me.name)["metadata"]["name"]
    cluster.admin("DELETE", f"/apis/coordination.k8s.io/v1/namespaces/team/leases/{name}")
    clock.now += RENEW_SECONDS
    held.work(api)
    clock.now += 1
    held.work(api)
    assert lease(cluster, me.name)["spec"]["holderIdentity"] == me.uid
