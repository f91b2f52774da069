"""Adds ckptrun to a user's own manifests: ``ckptrun kube inject``. Pure.

What is added is `ckptrun.kube.podshape`'s; here it is fitted into Jobs, CronJobs and Pods. What was added before is
taken out first, so that a second time gives the same.
"""

from __future__ import annotations

import copy
from typing import Any

from ckptrun.errors import ConfigurationError
from ckptrun.kube import podshape
from ckptrun.kube.jobpod import POD_PATHS, JobPod, is_setting
from ckptrun.kube.podshape import Mode, Node, Shape

REFUSED = frozenset({"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController"})
"""What keeps pods for ever: their ends mean nothing, and most give a new pod a new name."""

GRACE_MARGIN = 15
"""Seconds from the end of ckptrun's grace to the pod's."""


def inject(documents: list[Any], shape: Shape, container: str = "") -> list[Any]:
    """Return ``documents`` with ckptrun in each Job, CronJob and Pod; others are as they were.

    Args:
        documents: parsed manifests; they are not changed.
        shape: what is added.
        container: the job's container; may be empty where a pod has one only.

    Raises:
        ConfigurationError: a manifest cannot be given ckptrun; the message names the field.
    """
    result = copy.deepcopy(documents)
    if not [_into(document, shape, container) for document in _flat(result)].count(True):
        raise ConfigurationError(
            "there is no Job, CronJob or Pod among the manifests", hint="give the file that has one"
        )
    return result


def _flat(documents: list[Any]) -> list[Node]:
    """Return the documents, and those in a List."""
    found: list[Node] = []
    for document in documents:
        if not isinstance(document, dict) or not isinstance(document.get("kind"), str):
            raise ConfigurationError("a document is no manifest: it has no kind", hint="take it out")
        if document["kind"] == "List":
            found += _flat(document.get("items") or [])
        else:
            found.append(document)
    return found


def _into(document: Node, shape: Shape, container: str) -> bool:
    kind = document["kind"]
    if kind not in POD_PATHS:
        if kind in REFUSED or _has_pods(document):
            raise ConfigurationError(
                f"{JobPod.name_of(document)}: ckptrun needs pods that end, and are known again by their Job's name",
                hint="make it a Job, an Indexed Job, a CronJob or a Pod",
            )
        return False
    pod = JobPod(document, shape)
    pod.check(container)
    _clean(pod)
    _add(pod, shape)
    return True


def _clean(pod: JobPod) -> None:
    """Take out what an earlier time has put in."""
    for field in ("initContainers", "containers"):
        if field in pod.spec:
            own = {podshape.INSTALL, podshape.SIDECAR}
            pod.spec[field] = [c for c in pod.spec[field] if c.get("name") not in own]
    for node, field in ((pod.spec, "volumes"), (pod.job, "volumeMounts")):
        if field in node:
            node[field] = [item for item in node[field] if not podshape.is_own_volume(item.get("name", ""))]
    pod.job["command"] = _own_command(pod.job["command"])
    if pod.wrapped():
        pod.job["env"] = [entry for entry in pod.job.get("env") or [] if not is_setting(entry)]
    annotations = (pod.template.get("metadata") or {}).get("annotations") or {}
    for name in [name for name in annotations if name.startswith(podshape.APP_ARMOR_ANNOTATION)]:
        if name.removeprefix(podshape.APP_ARMOR_ANNOTATION) in {podshape.SIDECAR, pod.job.get("name")}:
            del annotations[name]


def _own_command(command: list[str]) -> list[str]:
    for prefix in (podshape.SHIM, podshape.WRAPPER):
        if command[: len(prefix)] == [*prefix]:
            return command[len(prefix) :]
    return command


def _add(pod: JobPod, shape: Shape) -> None:
    """Put ckptrun in."""
    name = pod.job["name"]
    if shape.mode is Mode.SIDECAR:
        pod.spec["shareProcessNamespace"] = True
        beside = podshape.sidecar(shape, name)
        first = [podshape.install(shape), *([beside] if shape.native else [])]
        pod.spec["initContainers"] = [*(pod.spec.get("initContainers") or []), *first]
        if not shape.native:
            pod.spec["containers"].append(beside)
        pod.job["command"] = [*podshape.SHIM, *pod.job["command"]]
        mounts = [{"name": podshape.OWN_VOLUME, "mountPath": podshape.FOLDER, "readOnly": True}]
    else:
        pod.job["command"] = [*podshape.WRAPPER, *pod.job["command"]]
        own = podshape.environment(shape, name, pod.user)
        pod.job["env"] = [*own, *(pod.job.get("env") or [])]
        kept = ("readOnlyRootFilesystem", "seLinuxOptions")
        before = pod.job.get("securityContext") or {}
        own_rights = {field: before[field] for field in kept if field in before}
        pod.job["securityContext"] = {**podshape.capable(shape), **own_rights}
        mounts = podshape.own_mounts(shape)
    pod.job["volumeMounts"] = [*mounts, *(pod.job.get("volumeMounts") or [])]
    pod.spec["volumes"] = [*podshape.volumes(shape), *(pod.spec.get("volumes") or [])]
    pod.spec["terminationGracePeriodSeconds"] = _grace(pod, shape)
    if shape.version < podshape.APP_ARMOR_FIELD:
        capable = podshape.SIDECAR if shape.mode is Mode.SIDECAR else name
        annotations = _child(_child(pod.template, "metadata"), "annotations")
        annotations[podshape.APP_ARMOR_ANNOTATION + capable] = "unconfined"
    if pod.document["kind"] != "Pod":
        if shape.version >= podshape.REPLACEMENT:
            pod.around["podReplacementPolicy"] = "Failed"
        if pod.spec.get("restartPolicy") == "Never":
            pod.around.setdefault("podFailurePolicy", podshape.failure_policy(shape, name))


def _grace(pod: JobPod, shape: Shape) -> int:
    said = pod.spec.get("terminationGracePeriodSeconds")
    return said if isinstance(said, int) else -int(-shape.grace // 1) + GRACE_MARGIN


def _has_pods(document: Node) -> bool:
    node: Any = document
    for part in ("spec", "template", "spec", "containers"):
        node = node.get(part) if isinstance(node, dict) else None
    return isinstance(node, list)


def _child(node: Node, name: str) -> Node:
    found: Node = node.setdefault(name, {})
    return found
