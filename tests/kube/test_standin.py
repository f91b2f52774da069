"""The stand-in itself: it refuses what a real server refuses, and what a schema does not know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support import kube_schemas as schemas

from ckptrun.kube import objects
from ckptrun.kube.access import find_access
from ckptrun.kube.api import Api, ApiError
from ckptrun.kube.objects import Notice
from ckptrun.settings import find_pod

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.cluster import StandIn

    from ckptrun.settings import Pod


def made(pod: Pod) -> dict[str, Any]:
    return objects.event(pod, "e1", Notice("Reason", "message"), 1, 0.0, 0.0)


SPOILED: list[Callable[[dict[str, Any]], object]] = [
    lambda event: event.update(reportingController="ckptrun.dev"),
    lambda event: event.update(count="one"),
    lambda event: event.update(type="Bad"),
    lambda event: event.update(message="x" * 1025),
    lambda event: event["involvedObject"].update(namespace="other"),
    lambda event: event.update(firstTimestamp="2030-01-01T00:00:00Z"),
    lambda event: event.pop("involvedObject"),
    lambda event: event.update(kind="Lease"),
]


@pytest.mark.parametrize("spoil", SPOILED)
def test_an_event_with_one_wrong_field_is_no_event(me: Pod, spoil: Callable[[dict[str, Any]], object]):
    event = made(me)
    schemas.check(event, "v1", "Event")
    spoil(event)
    with pytest.raises(ValueError, match=r"."):
        schemas.check(event, "v1", "Event")


def test_what_is_wrong_is_refused_and_noted(standin: StandIn):
    seen = standin.add_pod("wrong")
    me = find_pod(seen.environ)
    assert me is not None
    api = Api(find_access(seen.environ))
    with pytest.raises(ApiError) as caught:
        api.call("create", "events", "/api/v1/namespaces/team/events", {**made(me), "extra": 1})
    assert caught.value.status == 422
    assert len(standin.state.problems) == 1
    standin.state.problems.clear()
