"""What is written to the Kubernetes API, as JSON bodies. Pure.

Events are those of the core API, ``v1``, not of ``events.k8s.io/v1``: both are the same objects to every reader, but
only the first lets an Event that is counted up carry the newest message, which ``kubectl describe pod`` shows.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptrun.settings.pod import Pod

CONTROLLER = "ckptrun.dev"
MESSAGE_BYTES = 1024
"""Of an Event; what a condition says is held to the same."""
_NAME_LIMIT, _INSTANCE_LIMIT = 253, 128


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to tell of, as an Event.

    Args:
        reason: a word in CamelCase, always the same for the same kind of thing.
        message: a sentence, with the remedy where there is one.
        warning: whether somebody should look.
    """

    reason: str
    message: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition in a pod's status.

    Args:
        status: whether it holds.
        reason: why, in CamelCase.
        message: why, in a sentence.
        since: seconds since the epoch since when `status` is what it is.
    """

    status: bool
    reason: str
    message: str
    since: float


def short(text: str, limit: int = MESSAGE_BYTES) -> str:
    """Return ``text`` in at most ``limit`` bytes of UTF-8, with an ellipsis where it was cut."""
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return data.decode()
    return data[: limit - 3].decode("utf-8", "ignore") + "…"


def time(seconds: float) -> str:
    """Return a time of the API, to the second."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_time(seconds: float) -> str:
    """Return a time of the API, to the microsecond."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def event_name(pod: Pod, token: str) -> str:
    """Return a name for a new Event; ``token`` is random."""
    return f"{pod.name[: _NAME_LIMIT - len(token) - 1].rstrip('-.')}.{token}"


def event(pod: Pod, name: str, notice: Notice, count: int, first: float, last: float) -> dict[str, Any]:
    """Return a new Event on the pod; times in seconds since the epoch."""
    about = {"apiVersion": "v1", "kind": "Pod", "namespace": pod.namespace, "name": pod.name}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": pod.namespace},
        "involvedObject": {**about, "uid": pod.uid} if pod.uid else about,
        "reason": notice.reason,
        "message": short(notice.message),
        "type": "Warning" if notice.warning else "Normal",
        "source": {"component": "ckptrun", "host": pod.node} if pod.node else {"component": "ckptrun"},
        "firstTimestamp": time(first),
        "lastTimestamp": time(last),
        "count": count,
        "reportingComponent": CONTROLLER,
        "reportingInstance": pod.name[:_INSTANCE_LIMIT],
    }


def event_patch(notice: Notice, count: int, last: float) -> dict[str, Any]:
    """Return what changes when an Event is counted up."""
    return {"count": count, "lastTimestamp": time(last), "message": short(notice.message)}


def status_patch(
    pod: Pod, conditions: Mapping[str, Condition], annotations: Mapping[str, str]
) -> dict[str, Any]:
    """Return a patch of ``pods/status``, which takes annotations too; another pod of the same name refuses it."""
    metadata: dict[str, Any] = {"uid": pod.uid} if pod.uid else {}
    if annotations:
        metadata["annotations"] = dict(annotations)
    listed = [
        {
            "type": kind,
            "status": "True" if condition.status else "False",
            "reason": condition.reason,
            "message": short(condition.message),
            "lastTransitionTime": time(condition.since),
        }
        for kind, condition in conditions.items()
    ]
    return {"metadata": metadata, **({"status": {"conditions": listed}} if listed else {})}


def lease_name(store_url: str, lineage: str) -> str:
    """Return the name of a lineage's Lease: the same in every pod that could be its writer."""
    digest = hashlib.sha256(f"{store_url.rstrip('/')}\0{lineage}".encode("utf-8", "surrogateescape"))
    return f"ckptrun-{digest.hexdigest()[:16]}"


def lease(pod: Pod, name: str, lineage: str) -> dict[str, Any]:
    """Return a Lease that nobody holds; it goes when the pod goes that wrote it last."""
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": pod.namespace,
        "annotations": {
            "ckptrun.dev/lineage": lineage,
            "ckptrun.dev/pod": pod.name,
            "ckptrun.dev/node": pod.node,
        },
    }
    if pod.uid:
        owner = {"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid}
        metadata["ownerReferences"] = [owner]
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": {}}
