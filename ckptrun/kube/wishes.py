"""What a pod and its node ask of the run: a checkpoint now, or one before they are taken away. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptrun.kube.story import last_of

if TYPE_CHECKING:
    from collections.abc import Mapping

NOW = "ckptrun.dev/checkpoint-now"
"""Annotation of the pod: whenever its value changes, a checkpoint is taken."""

TAINTS = frozenset(
    {
        "node.kubernetes.io/unschedulable",  # kubectl cordon, kubectl drain
        "node.kubernetes.io/out-of-service",
        "ToBeDeletedByClusterAutoscaler",
        "karpenter.sh/disrupted",
        "karpenter.sh/disruption",
        "aws-node-termination-handler/spot-itn",
        "aws-node-termination-handler/rebalance-recommendation",
        "aws-node-termination-handler/scheduled-maintenance",
        "cloud.google.com/impending-node-termination",
    }
)
"""Taints of a node that will soon be empty."""


class Wishes:
    """Remembers what has been asked for already."""

    def __init__(self) -> None:
        self._wish: str | None = None
        self._leaving = False
        self._doomed = False

    def wanted(self, pod: Mapping[str, Any]) -> str | None:
        """Return the annotation's value if a checkpoint is to be taken for it.

        One that was there before this process counts, unless the pod says that it was answered.
        """
        value = (pod.get("metadata", {}).get("annotations") or {}).get(NOW) or ""
        known = last_of(pod).get("asked") if self._wish is None else self._wish
        self._wish = value
        return value if value and value != known else None

    def pod_leaves(self, pod: Mapping[str, Any]) -> str | None:
        """Return why the pod will soon be gone, the first time that it says so."""
        why = None
        if pod.get("metadata", {}).get("deletionTimestamp"):
            why = "the pod is being deleted"
        for condition in pod.get("status", {}).get("conditions") or ():
            if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
                why = f"the pod is going to be disrupted ({condition.get('reason') or 'no reason given'})"
        if why is None or self._leaving:
            return None
        self._leaving = True
        return why

    def node_leaves(self, node: Mapping[str, Any]) -> str | None:
        """Return why the node will soon be gone, whenever it begins to say so."""
        spec = node.get("spec") or {}
        taints = sorted({str(taint.get("key")) for taint in spec.get("taints") or ()} & TAINTS)
        doomed = bool(taints or spec.get("unschedulable"))
        begins = doomed and not self._doomed
        self._doomed = doomed
        if not begins:
            return None
        name = node.get("metadata", {}).get("name")
        return f"node {name} takes no more pods ({', '.join(taints) or 'unschedulable'})"
