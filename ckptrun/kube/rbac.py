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
