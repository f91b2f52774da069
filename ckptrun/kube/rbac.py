"""The rights that ckptrun makes use of, least and all: what the chart's Role has, and a test holds it to.

Without any of them a run goes on; each that is missing is named once. Watching needs neither ``get`` nor ``list``: one
without a version begins with the object as it is. Conditions and annotations are written in one patch of
``pods/status``, which cannot change what a pod runs: ``patch`` of ``pods`` could, and is not asked for.
"""

from __future__ import annotations

from typing import Any

ROLE_RULES: list[dict[str, Any]] = [
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["watch"]},
    {"apiGroups": [""], "resources": ["pods/status"], "verbs": ["patch"]},
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]},
]
"""Of a Role in the pod's namespace."""

CLUSTER_ROLE_RULES: list[dict[str, Any]] = [
    {"apiGroups": [""], "resources": ["nodes"], "verbs": ["watch"]},
]
"""Of a ClusterRole, at will: a drain is then noticed at the cordon, before the pod is evicted."""


def bound(namespace: str, account: str, *, nodes: bool) -> dict[str, Any]:
    """Return a List of manifests that give the rights to a service account.

    Args:
        namespace: the pods'.
        account: their service account.
        nodes: with the ClusterRole.
    """
    items = _pair("", {"name": "ckptrun", "namespace": namespace}, ROLE_RULES, namespace, account)
    if nodes:
        name = {"name": f"ckptrun:{namespace}:{account}"}
        items += _pair("Cluster", name, CLUSTER_ROLE_RULES, namespace, account)
    return {"apiVersion": "v1", "kind": "List", "items": items}


def _pair(
    scope: str, metadata: dict[str, str], rules: list[dict[str, Any]], namespace: str, account: str
) -> list[dict[str, Any]]:
    version = {"apiVersion": "rbac.authorization.k8s.io/v1"}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": f"{scope}Role", "name": metadata["name"]}
    subject = {"kind": "ServiceAccount", "name": account, "namespace": namespace}
    return [
        {**version, "kind": f"{scope}Role", "metadata": metadata, "rules": rules},
        {
            **version,
            "kind": f"{scope}RoleBinding",
            "metadata": metadata,
            "roleRef": reference,
            "subjects": [subject],
        },
    ]
