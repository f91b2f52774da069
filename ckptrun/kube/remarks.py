"""What of a Job that has ckptrun in it counts ends that are none of its job's: ``kube inject`` says it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptrun.kube import podshape
from ckptrun.kube.jobpod import POD_PATHS

if TYPE_CHECKING:
    from ckptrun.kube.podshape import Node

STOPPED = 75
"""The exit code of a job that was checkpointed and stopped."""


def remarks(documents: list[Any]) -> list[str]:
    """Return a sentence for each Job among ``documents`` that would fail for being stopped and gone on with."""
    found = []
    for document in _flat(documents):
        if document.get("kind") not in {"Job", "CronJob"}:
            continue
        around = _at(document, POD_PATHS[document["kind"]][:-1])
        name = f"{document['kind']} {(document.get('metadata') or {}).get('name') or 'without a name'}"
        spec = _at(around, ("template", "spec"))
        if spec.get("restartPolicy") != "Never":
            found.append(
                f"{name}: with restartPolicy {spec.get('restartPolicy')} Kubernetes tells no exit codes apart: "
                f"{STOPPED}, evictions and each restart of a container, the sidecar's too, count in backoffLimit; "
                "write Never, or raise it"
            )
        elif "podFailurePolicy" in around and not _ignored(_at(around, ("podFailurePolicy",)), _job_of(spec)):
            found.append(
                f"{name}: its own podFailurePolicy does not ignore exit code {STOPPED}, 'checkpointed and stopped, run "
                "me again', so each such stop is a failure; put {action: Ignore, onExitCodes: {operator: In, values: "
                f"[{STOPPED}]}}}} first among its rules"
            )
    return found


def _ignored(policy: Node, container: str) -> bool:
    """Tell whether the first rule that holds for the code ignores it."""
    for rule in policy.get("rules") or []:
        codes = rule.get("onExitCodes")
        if not codes or codes.get("containerName") not in {None, container}:
            continue
        if (STOPPED in (codes.get("values") or [])) is (codes.get("operator") == "In"):
            return bool(rule.get("action") == "Ignore")
    return False


def _job_of(spec: Node) -> str:
    """Return the name of the container that has the shim or the wrapper in front of its command."""
    for container in spec.get("containers") or []:
        command = container.get("command") or []
        if any(command[: len(prefix)] == [*prefix] for prefix in (podshape.SHIM, podshape.WRAPPER)):
            return str(container.get("name"))
    return ""


def _at(node: Node, path: tuple[str, ...]) -> Node:
    for part in path:
        node = node.get(part) or {}
    return node


def _flat(documents: list[Any]) -> list[Node]:
    found: list[Node] = []
    for document in documents:
        found += _flat(document.get("items") or []) if document.get("kind") == "List" else [document]
    return found
