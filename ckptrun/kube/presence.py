"""The Lease beside the store's fence: which pod writes a lineage, for people and for the next pod. It decides nothing.

The fence is the store's (docs/design/resume.md): a partition may leave two pods here, never two writers there.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from ckptrun.kube import objects
from ckptrun.kube.api import CONFLICT, NOT_FOUND, ApiError
from ckptrun.kube.objects import Notice

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckptrun.kube.api import Api
    from ckptrun.settings.pod import Pod

KIND = "leases.coordination.k8s.io"
RENEW_SECONDS = 20.0
HELD_SECONDS = 60
"""After a renewal; who is silent for longer is taken for gone."""
NEVER = float("inf")


class Presence:
    """Holds a lineage's Lease while the run lives.

    Args:
        pod: who holds it.
        store_url: of the lineage.
        lineage: its name.
        clock: seconds since the epoch.
        tell: takes what somebody should know.
    """

    def __init__(
        self,
        pod: Pod,
        store_url: str,
        lineage: str,
        clock: Callable[[], float],
        tell: Callable[[Notice], None],
    ) -> None:
        self._pod = pod
        self._lineage = lineage
        self._clock = clock
        self._tell = tell
        self._name = objects.lease_name(store_url, lineage)
        self._folder = f"/apis/coordination.k8s.io/v1/namespaces/{pod.namespace}/leases"
        self._path = f"{self._folder}/{self._name}"
        self._mine: dict[str, Any] | None = None
        self._held = False
        self._leaving = False
        self._next = 0.0

    def due(self) -> float:
        """Return when there is something to write, in seconds since the epoch."""
        return self._next

    def refused(self, verb: str) -> bool:  # noqa: ARG002 -- every one is needed
        """Tell whether there is anything to do without the right to do this."""
        return False

    def hurry(self) -> None:
        """Let it go: the run ends."""
        if not self._leaving:
            self._next = 0.0 if self._mine is not None else NEVER
        self._leaving = True

    def work(self, api: Api) -> None:
        """Take it, renew it, or let it go.

        Raises:
            ApiError: it could not be read or written.
        """
        try:
            if self._mine is None:
                self._take(api)
            else:
                self._mine = api.call("update", KIND, self._path, self._changed(self._mine))
        except ApiError as error:
            if error.status not in {CONFLICT, NOT_FOUND}:
                raise
            self._mine = None  # somebody else has written or removed it: look again
            self._next = NEVER if self._leaving else self._clock() + 1.0
            return
        self._held = True
        self._next = NEVER if self._leaving else self._clock() + RENEW_SECONDS

    def _take(self, api: Api) -> None:
        try:
            found = api.call("get", KIND, self._path)
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise
            new = objects.lease(self._pod, self._name, self._lineage)
            self._mine = api.call("create", KIND, self._folder, self._changed(new))
            return
        holder = living_holder(found, self._clock())
        if holder and holder != self._pod.uid:
            self._tell(Notice("LineageHeldElsewhere", self._other(found), warning=True))
            if self._held:  # it has taken over what was ours: the store's fence ends this run, or that one
                self._leaving = True
                return
        self._mine = api.call("update", KIND, self._path, self._changed(found))

    def _changed(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Return the Lease as this pod writes it."""
        new = objects.lease(self._pod, self._name, self._lineage)
        metadata = {**new["metadata"]}
        if version := found["metadata"].get("resourceVersion"):
            metadata["resourceVersion"] = version
        old, now = found.get("spec", {}), objects.micro_time(self._clock())
        mine = old.get("holderIdentity") == self._pod.uid
        turns = int(old.get("leaseTransitions") or 0)
        spec = {
            **({} if self._leaving else {"holderIdentity": self._pod.uid}),
            "leaseDurationSeconds": 1 if self._leaving else HELD_SECONDS,
            "acquireTime": old.get("acquireTime") if mine and old.get("acquireTime") else now,
            "renewTime": now,
            "leaseTransitions": turns if mine or not old else turns + 1,
        }
        return {**new, "metadata": metadata, "spec": spec}

    def _other(self, found: Mapping[str, Any]) -> str:
        return (
            f"lineage {self._lineage!r} is also held by {described(found, self._clock())}; only one of the two can "
            "store checkpoints, the other one stops. If both should run, give each a lineage of its own"
        )


def living_holder(lease: Mapping[str, Any], now: float) -> str:
    """Return who holds a Lease that has been renewed in time; empty if nobody does."""
    spec = lease.get("spec") or {}
    holder = str(spec.get("holderIdentity") or "")
    return holder if holder and now - renewed(lease) <= float(spec.get("leaseDurationSeconds") or 0) else ""


def renewed(lease: Mapping[str, Any]) -> float:
    """Return when a Lease was renewed, in seconds since the epoch; 0 if it does not say."""
    text = str((lease.get("spec") or {}).get("renewTime") or "")
    try:
        return dt.datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def described(lease: Mapping[str, Any], now: float) -> str:
    """Return who holds a Lease, for people."""
    notes = (lease.get("metadata") or {}).get("annotations") or {}
    where = f" on node {notes['ckptrun.dev/node']}" if notes.get("ckptrun.dev/node") else ""
    holder = (lease.get("spec") or {}).get("holderIdentity", "")
    name = notes.get("ckptrun.dev/pod") or holder
    return f"pod {name} ({holder}){where}, which said so {max(now - renewed(lease), 0):.0f} s ago"
