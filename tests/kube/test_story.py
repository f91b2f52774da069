"""What events of a run mean to its pod, and what a pod and its node ask for: without any server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from ckptrun.core.events import JOB_ENDED
from ckptrun.kube.objects import Notice, event, event_name, short, status_patch
from ckptrun.kube.story import CHECKPOINTED, LAST, RESTORED, Story
from ckptrun.kube.wishes import NOW, TAINTS, Wishes
from ckptrun.settings import Pod

if TYPE_CHECKING:
    from collections.abc import Mapping


def told(*events: Mapping[str, Any]) -> list[Notice]:
    story = Story(lambda: 0.0)
    return [notice for one in events for notice in story.take(one)]


@pytest.mark.parametrize(
    ("event", "reason", "words"),
    [
        (
            {"event": "checkpoint-failed", "id": "c1", "reason": "a socket; close it"},
            "CheckpointFailed",
            "close it",
        ),
        (
            {"event": "commit-failed", "id": "c1", "reason": "access denied", "transient": True},
            "CheckpointNotStored",
            "access denied; it is tried again",
        ),
        ({"event": "restore-failed", "checkpoint": "c1", "reason": "no AVX2"}, "RestoreFailed", "no AVX2"),
        (
            {"event": "checkpoint-poisoned", "id": "c1", "signature": "SIGSEGV"},
            "CheckpointPoisoned",
            "SIGSEGV",
        ),
        ({"event": "fenced", "reason": "epoch 8"}, "Fenced", "epoch 8; the job of this pod is stopped"),
        ({"event": "job-ended", "oom": True, "signal": 9}, "JobOutOfMemory", "raise the container's limit"),
        ({"event": "job-ended", "signal": 11}, "JobKilled", "signal 11"),
        ({"event": "job-ended", "code": 3}, "JobFailed", "exit code 3"),
        ({"event": "gave-up", "reason": "SIGSEGV twice"}, "GaveUp", "SIGSEGV twice"),
        (
            {"event": "store-unusable", "reason": "read-only; grant PutObject"},
            "StoreUnusable",
            "grant PutObject",
        ),
        ({"event": "start-failed", "error": "no such file"}, "StartFailed", "no such file"),
        ({"event": "heartbeat-lost"}, "HeartbeatLost", "for ? s"),
        ({"event": "preemption-expected", "reason": "node n drains"}, "PreemptionExpected", "node n drains"),
    ],
)
def test_what_somebody_should_look_at_is_a_warning(event: dict[str, Any], reason: str, words: str):
    (notice,) = told(event)
    assert (notice.reason, notice.warning) == (reason, True)
    assert words in notice.message


@pytest.mark.parametrize(
    "event",
    [
        {"event": "job-started", "incarnation": 1},
        {"event": "job-ended", "code": 0},
        {"event": "checkpoint-skipped", "id": "c1", "reason": "a critical section"},
        {"event": "checkpoint-failed", "id": "c1", "reason": "the run is stopping"},
        {"event": "checkpoint-failed", "id": "c1", "reason": JOB_ENDED},
        {"event": "run-ended", "exit": {"by": "job", "code": 0}},
        {"event": "hook", "hook": "x"},
        {"event": "of another version"},
    ],
)
def test_what_is_as_it_should_be_is_no_event(event: dict[str, Any]):
    assert told(event) == []


def test_a_job_that_is_served_again_is_told_and_leaves_the_conditions_alone():
    story = Story(lambda: 5.0)
    (notice,) = story.take({"event": "job-resumed", "incarnation": 1})
    assert (notice.reason, notice.warning) == ("ServedAgain", False)
    assert story.conditions == {}


def test_a_run_as_a_whole():
    story = Story(lambda: 5.0)
    story.take({"event": "job-started"})
    assert (story.conditions[RESTORED].status, story.conditions[RESTORED].reason) == (False, "StartedAnew")
    for number in range(40):
        story.take({"event": "checkpoint-staged", "id": f"c{number}", "trigger": "interval"})
    assert len(story._staged) < 40
    story.take({"event": "checkpoint-committed", "id": "c39", "seq": 2, "time": "t"})
    assert json.loads(story.annotations[LAST]) == {"id": "c39", "seq": 2, "time": "t", "trigger": "interval"}
    assert story.conditions[CHECKPOINTED].status
    story.take({"event": "job-restored", "checkpoint": "c39"})
    assert story.conditions[RESTORED].status


@pytest.mark.parametrize("text", ["", "no JSON", "[]", "3"])
def test_an_annotation_that_somebody_else_has_written_is_no_obstacle(text: str):
    pod = {"metadata": {"annotations": {LAST: text}}, "status": {"conditions": [{"type": CHECKPOINTED}]}}
    story = Story(lambda: 0.0)
    story.adopt(pod)
    assert story.annotations == {}
    assert Wishes().wanted({"metadata": {"annotations": {LAST: text, NOW: "1"}}}) == "1"


def test_a_wish_counts_once_and_not_if_it_was_answered():
    wishes = Wishes()
    answered = {"metadata": {"annotations": {NOW: "1", LAST: '{"asked": "1"}'}}}
    assert wishes.wanted(answered) is None
    assert wishes.wanted({"metadata": {"annotations": {NOW: "2"}}}) == "2"
    assert wishes.wanted({"metadata": {"annotations": {NOW: "2"}}}) is None
    assert wishes.wanted({"metadata": {}}) is None
    assert wishes.wanted({"metadata": {"annotations": {NOW: "2"}}}) == "2"


@pytest.mark.parametrize("taint", sorted(TAINTS))
def test_a_node_that_is_to_be_emptied_counts_whenever_it_becomes_so(taint: str):
    wishes = Wishes()
    node = {"metadata": {"name": "n"}, "spec": {"taints": [{"key": "other"}, {"key": taint}]}}
    why = wishes.node_leaves(node)
    assert why is not None
    assert taint in why
    assert wishes.node_leaves(node) is None
    assert wishes.node_leaves({"metadata": {"name": "n"}, "spec": {}}) is None
    assert wishes.node_leaves(node) == why


@for_all(st.text(), st.integers(4, 1100))
def test_a_text_is_cut_between_letters(text: str, limit: int):
    cut = short(text, limit)
    assert len(cut.encode()) <= limit
    assert cut == text.encode("utf-8", "replace").decode() or cut.endswith("…")


def test_names_of_events_and_instances_fit_the_longest_pod():
    pod = Pod("ns", ("a" * 60 + ".") * 4 + "b" * 9, "uid")
    made = event(pod, event_name(pod, "0" * 16), Notice("R", "m"), 1, 0.0, 0.0)
    assert len(pod.name) == 253
    assert len(made["metadata"]["name"]) <= 253
    assert ".." not in made["metadata"]["name"]
    assert len(made["reportingInstance"]) <= 128
    assert status_patch(pod, {}, {"a": "b"}) == {"metadata": {"uid": "uid", "annotations": {"a": "b"}}}
