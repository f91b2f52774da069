"""What is said of a right that the pod's service account lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptrun.settings.pod import Pod

BEING_TERMINATED = "being terminated"
"""In the message of a refusal that is none of rights: the namespace is being deleted."""

_LOST = {
    "events": "it gets no Events",
    "pods": "annotations and evictions are not noticed",
    "pods/status": "it gets no conditions and annotations",
    "leases": "no Lease says who writes the lineage",
    "nodes": "a drain is noticed only when the pod is evicted",
}


def missing(pod: Pod, verb: str, kind: str) -> str:
    """Return which right is missing, what is lost by it, and the rule that gives it.

    Args:
        pod: the pod this is.
        verb: as RBAC names it.
        kind: the resource, with its group: ``leases.coordination.k8s.io``.
    """
    resource, _, group = kind.partition(".")
    return (
        f"the service account {pod.service_account or 'of this pod'} may not {verb} {resource}: {_LOST[resource]}; "
        f'to have it, give its Role the rule apiGroups: ["{group}"], resources: ["{resource}"], verbs: ["{verb}"] '
        f"in namespace {pod.namespace}"
    )
