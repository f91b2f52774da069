"""Clusters for the tests of this folder, and for each a pod in it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from support import cluster as clusters

from ckptrun.kube.access import find_access
from ckptrun.kube.api import Api
from ckptrun.settings import find_pod

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ckptrun.settings import Pod

_numbers = itertools.count(1)


@pytest.fixture(scope="session", params=clusters.kinds())
def any_cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[clusters.Cluster]:
    """One cluster of each kind that can be had, for all tests."""
    with clusters.make(request.param, tmp_path_factory.mktemp(request.param)) as made:
        made.add_node()
        made.grant(clusters.ALL_RULES)
        yield made


@pytest.fixture
def cluster(any_cluster: clusters.Cluster) -> Iterator[clusters.Cluster]:
    """The cluster, with all rights granted; whatever was written must have been flawless."""
    any_cluster.grant(clusters.ALL_RULES)
    yield any_cluster
    if isinstance(any_cluster, clusters.StandIn):
        problems, any_cluster.state.problems = any_cluster.state.problems, []
        assert problems == []


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[clusters.StandIn]:
    """A stand-in of the test's own, for what no real server does on demand."""
    with clusters.StandIn(tmp_path / "cluster") as made:
        made.add_node()
        made.grant(clusters.ALL_RULES)
        yield made
        assert made.state.problems == []


@pytest.fixture
def pod(cluster: clusters.Cluster) -> clusters.Pod:
    """A pod of the test's own."""
    return cluster.add_pod(f"train-{next(_numbers)}")


@pytest.fixture
def me(pod: clusters.Pod) -> Pod:
    """The pod as it knows itself."""
    found = find_pod(pod.environ)
    assert found is not None
    return found


@pytest.fixture
def api(pod: clusters.Pod) -> Api:
    """The API as the pod reaches it."""
    return Api(find_access(pod.environ))
