"""The chart's pod, mode wrapper: whatever ends it or its job, the job goes on from the bucket, exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import stories

if TYPE_CHECKING:
    from conftest import Install

pytestmark = pytest.mark.slow

LIMIT = {"resources": {"limits": {"memory": "600Mi"}}}
STARTED_AGAIN = {"restartPolicy": "OnFailure", "podFailurePolicy": {"enabled": False}}


@pytest.fixture
def wrapper(install: Install) -> Any:
    """Install the chart in mode wrapper, with more values."""
    return lambda **values: install(mode="wrapper", **values)


def test_a_killed_job_is_restored_in_its_pod_and_its_code_is_the_containers(wrapper: Install):
    stories.killed_job(wrapper(job={"args": ["7"]}), 7)


def test_a_job_that_runs_out_of_memory_is_restored_in_its_pod(wrapper: Install):
    stories.out_of_memory(wrapper(job=LIMIT, checkpoint={"staging": "64M"}))


def test_a_container_that_is_killed_as_a_whole_goes_on_when_it_is_started_again(wrapper: Install):
    """As by memory.oom.group: ckptrun, which is its first process, and the job at the same moment."""
    stories.started_again(wrapper(**STARTED_AGAIN), lambda pod: pod.played.kill_container("job"), "job")


def test_a_pod_that_is_told_to_end_is_continued_by_the_next(wrapper: Install):
    stories.told_to_end(wrapper(job={"args": ["7"]}), 7)


def test_a_pod_that_is_gone_without_a_warning_is_continued_by_the_next(wrapper: Install):
    stories.taken_away(wrapper())
