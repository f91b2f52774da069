"""The chart's pod, mode sidecar: whatever ends it, its sidecar or its job, the job goes on from the bucket, exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import stories

if TYPE_CHECKING:
    from conftest import Install

pytestmark = pytest.mark.slow

LIMIT = {"resources": {"limits": {"memory": "200Mi"}}}
STARTED_AGAIN = {"restartPolicy": "OnFailure", "podFailurePolicy": {"enabled": False}}


def test_a_killed_job_is_restored_in_its_pod_and_its_code_is_the_containers(install: Install):
    stories.killed_job(install(job={"args": ["7"]}), 7)


def test_a_killed_sidecar_is_followed_by_one_that_goes_on_with_the_job_as_it_is(install: Install):
    stories.outlasted(install())


def test_a_job_that_runs_out_of_memory_is_restored_in_its_pod(install: Install):
    stories.out_of_memory(install(job=LIMIT))


def test_a_container_that_is_killed_as_a_whole_gets_its_job_back_when_it_is_started_again(install: Install):
    """As by memory.oom.group: the shim and the job at the same moment; the sidecar lives on."""
    stories.started_again(install(**STARTED_AGAIN), lambda pod: pod.played.kill_container("job"), "job")


def test_a_pod_whose_job_container_is_killed_for_good_ends_and_the_next_goes_on(install: Install):
    """With the chart's defaults (`restartPolicy: Never`), where the sidecar's is the pod's one SIGTERM."""
    stories.ended_as_a_whole(install())


def test_a_pod_that_is_told_to_end_is_continued_by_the_next(install: Install):
    stories.told_to_end(install(job={"args": ["7"]}), 7)


def test_a_pod_that_is_gone_without_a_warning_is_continued_by_the_next(install: Install):
    stories.taken_away(install())
