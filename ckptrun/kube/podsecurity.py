"""Pod Security: which namespaces take a pod with ckptrun, as far as manifests tell. Pure.

The levels and the label are Kubernetes' own. A pod that its namespace refuses is never made, so nothing of ckptrun's
could say why: ``ckptrun kube inject`` says it before.
"""

from __future__ import annotations

from typing import Any

from ckptrun.errors import ConfigurationError

LABEL = "pod-security.kubernetes.io/enforce"
NEEDED = "privileged"
"""The level that takes a container with the capabilities of a restore; it is Kubernetes' default."""


def check(documents: list[Any]) -> None:
    """Refuse manifests one of which is a Namespace that would not take the pods of the others.

    Raises:
        ConfigurationError: it enforces a stricter level; the message names the label.
    """
    levels = {
        str((document.get("metadata") or {}).get("name")): _level(document)
        for document in _flat(documents)
        if document.get("kind") == "Namespace"
    }
    for namespace in pod_namespaces(documents):
        if levels.get(namespace, NEEDED) != NEEDED:
            raise ConfigurationError(
                f"Namespace {namespace}: metadata.labels.{LABEL} is {levels[namespace]}, which takes no container with "
                "the capabilities that ckptrun needs",
                hint=f"set it to {NEEDED}; the job's own container stays within restricted in the mode sidecar",
            )


def advice(documents: list[Any]) -> str:
    """Return what the namespaces of the pods must allow, in a sentence with the command."""
    named = [name for name in pod_namespaces(documents) if name] or ["NAMESPACE"]
    return (
        f"the pods need a namespace that enforces no other Pod Security level than {NEEDED}; if no pod appears and the "
        f"Job's events say 'violates PodSecurity': kubectl label namespace {' '.join(named)} --overwrite "
        f"{LABEL}={NEEDED}"
    )


def pod_namespaces(documents: list[Any]) -> list[str]:
    """Return the namespaces of Jobs, CronJobs and Pods, each once; empty where none is said."""
    found = [
        str((document.get("metadata") or {}).get("namespace") or "")
        for document in _flat(documents)
        if document.get("kind") in {"Job", "CronJob", "Pod"}
    ]
    return list(dict.fromkeys(found))


def _level(namespace: dict[str, Any]) -> str:
    labels = (namespace.get("metadata") or {}).get("labels") or {}
    return str(labels.get(LABEL) or NEEDED)


def _flat(documents: list[Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for document in documents:
        found += _flat(document.get("items") or []) if document.get("kind") == "List" else [document]
    return found
