"""Adds ckptrun to a user's own manifests: ``ckptrun kube inject``. Pure.

What is added is `ckptrun.kube.podshape`'s; here it is fitted into Jobs, CronJobs and Pods. What was added before is
taken out first, so that a second time gives the same.
"""

from __future__ import annotations

import copy
from typing import Any

from ckptrun.errors import ConfigurationError
from ckptrun.kube import podshape
from ckptrun.kube.podshape import Mode, Node, Shape

POD_PATHS: dict[str, tuple[str, ...]] = {
    "Pod": (),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
"""Kind -> where its pod is."""

REFUSED = frozenset({"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController"})
"""What keeps pods for ever: their ends mean nothing, and most give a new pod a new name."""

GRACE_MARGIN = 15
"""Seconds from the end of ckptrun's grace to the pod's."""

KUBERNETES_GRACE = 30
"""What a pod's terminationGracePeriodSeconds is if nothing is said."""


_STATE = "XDG_STATE_HOME"


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
                f"{_Pod.name_of(document)}: ckptrun needs pods that end, and are known again by their Job's name",
                hint="make it a Job, an Indexed Job, a CronJob or a Pod",
            )
        return False
    pod = _Pod(document, shape)
    pod.check(container)
    pod.clean()
    pod.add()
    return True


class _Pod:
    """One pod of a manifest, while it is changed in place."""

    def __init__(self, document: Node, shape: Shape) -> None:
        self._document = document
        self._shape = shape
        self._path = ".".join((*POD_PATHS[document["kind"]], "spec"))
        self._around: Node = document
        """What holds the pod: the Job's spec, or the Pod itself."""
        node: Any = document
        for part in POD_PATHS[document["kind"]]:
            self._around = node
            node = node.get(part) if isinstance(node, dict) else None
        if not isinstance(node, dict) or not isinstance(node.get("spec"), dict):
            raise ConfigurationError(
                f"{self.name_of(document)} has no {self._path}", hint="complete the manifest"
            )
        self._template: Node = node
        self._spec: Node = node["spec"]
        self._job: Node = {}
        self._user = ""

    @staticmethod
    def name_of(document: Node) -> str:
        """Return what messages call a manifest, as ``Job train``."""
        metadata = document.get("metadata") or {}
        return (
            f"{document['kind']} {metadata.get('name') or metadata.get('generateName') or 'without a name'}"
        )

    def check(self, container: str) -> None:
        """Find the job's container; refuse what does not go together with ckptrun."""
        if not isinstance(containers := self._spec.get("containers"), list) or not containers:
            raise self._refused("containers", "is empty", "complete the manifest")
        self._check_host()
        self._job = self._chosen([c for c in containers if c.get("name") != podshape.SIDECAR], container)
        place = f"containers[{containers.index(self._job)}]"
        if not self._job.get("command"):
            raise self._refused(
                f"{place}.command",
                f"is missing in container {self._job.get('name')}: the image's ENTRYPOINT cannot be known from here",
                "write the program there (docker image inspect shows the image's)",
            )
        for mount in self._job.get("volumeMounts") or []:
            path = str(mount.get("mountPath", ""))
            under = path == podshape.FOLDER or path.startswith(f"{podshape.FOLDER}/")
            if under and not podshape.is_own_volume(mount.get("name", "")):
                raise self._refused(f"{place}.volumeMounts", f"has {path}, which is ckptrun's", "move it")
        if not self._injected():
            for volume in self._spec.get("volumes") or []:
                if podshape.is_own_volume(volume.get("name", "")):
                    raise self._refused("volumes", f"has {volume['name']}, a name of ckptrun's", "rename it")
        self._check_mode()
        self._check_pods()
        self._check_grace()
        if self._shape.mode is Mode.WRAPPER:
            self._user = self._whom()

    def clean(self) -> None:
        """Take out what an earlier time has put in."""
        for field in ("initContainers", "containers"):
            if field in self._spec:
                own = {podshape.INSTALL, podshape.SIDECAR}
                self._spec[field] = [c for c in self._spec[field] if c.get("name") not in own]
        for node, field in ((self._spec, "volumes"), (self._job, "volumeMounts")):
            if field in node:
                node[field] = [
                    item for item in node[field] if not podshape.is_own_volume(item.get("name", ""))
                ]
        self._job["command"] = self._own_command()
        if self._wrapped():
            self._job["env"] = [entry for entry in self._job.get("env") or [] if not _is_setting(entry)]
        annotations = (self._template.get("metadata") or {}).get("annotations") or {}
        for name in [name for name in annotations if name.startswith(podshape.APP_ARMOR_ANNOTATION)]:
            if name.removeprefix(podshape.APP_ARMOR_ANNOTATION) in {podshape.SIDECAR, self._job.get("name")}:
                del annotations[name]

    def add(self) -> None:
        """Put ckptrun in."""
        shape = self._shape
        name = self._job["name"]
        if shape.mode is Mode.SIDECAR:
            self._spec["shareProcessNamespace"] = True
            beside = podshape.sidecar(shape, name)
            first = [podshape.install(shape), *([beside] if shape.native else [])]
            self._spec["initContainers"] = [*(self._spec.get("initContainers") or []), *first]
            if not shape.native:
                self._spec["containers"].append(beside)
            self._job["command"] = [*podshape.SHIM, *self._job["command"]]
            mounts = [{"name": podshape.OWN_VOLUME, "mountPath": podshape.FOLDER, "readOnly": True}]
        else:
            self._job["command"] = [*podshape.WRAPPER, *self._job["command"]]
            own = podshape.environment(shape, name, self._user)
            self._job["env"] = [*own, *(self._job.get("env") or [])]
            kept = ("readOnlyRootFilesystem", "seLinuxOptions")
            before = self._job.get("securityContext") or {}
            own_rights = {field: before[field] for field in kept if field in before}
            self._job["securityContext"] = {**podshape.capable(shape), **own_rights}
            mounts = podshape.own_mounts(shape)
        self._job["volumeMounts"] = [*mounts, *(self._job.get("volumeMounts") or [])]
        self._spec["volumes"] = [*podshape.volumes(shape), *(self._spec.get("volumes") or [])]
        self._spec["terminationGracePeriodSeconds"] = self._grace()
        if shape.version < podshape.APP_ARMOR_FIELD:
            capable = podshape.SIDECAR if shape.mode is Mode.SIDECAR else name
            annotations = _child(_child(self._template, "metadata"), "annotations")
            annotations[podshape.APP_ARMOR_ANNOTATION + capable] = "unconfined"
        if self._document["kind"] != "Pod":
            if shape.version >= podshape.REPLACEMENT:
                self._around["podReplacementPolicy"] = "Failed"
            if self._spec.get("restartPolicy") == "Never":
                self._around.setdefault("podFailurePolicy", podshape.failure_policy(shape, name))

    def _chosen(self, candidates: list[Node], container: str) -> Node:
        names = [str(candidate.get("name")) for candidate in candidates]
        if container:
            if container not in names:
                raise self._refused("containers", f"has no {container}", "choose " + ", ".join(names))
            return candidates[names.index(container)]
        if len(candidates) > 1:
            raise self._refused(
                "containers", f"has {len(candidates)}: {', '.join(names)}", "name the job's with --container"
            )
        return candidates[0]

    def _check_host(self) -> None:
        if self._spec.get("hostPID"):
            raise self._refused(
                "hostPID", "is true: the job's processes could not be told from the node's", "take it out"
            )
        if self._spec.get("hostUsers") is False:
            raise self._refused(
                "hostUsers", "is false: in a user namespace no checkpoint can be taken", "take it out"
            )
        if self._shape.mode is Mode.SIDECAR and self._spec.get("shareProcessNamespace") is False:
            raise self._refused(
                "shareProcessNamespace",
                "is false: the sidecar would not see the job",
                "take it out, or pass --mode wrapper",
            )
        system = (self._spec.get("os") or {}).get("name")
        selected = (self._spec.get("nodeSelector") or {}).get("kubernetes.io/os")
        if "windows" in {system, selected}:
            raise self._refused(
                "os" if system else "nodeSelector", "asks for Windows", "ckptrun is for Linux"
            )

    def _check_mode(self) -> None:
        """Refuse what the other mode has changed, and what is at odds with this one."""
        wrapped = self._wrapped()
        if self._injected() and wrapped is not (self._shape.mode is Mode.WRAPPER):
            mode = Mode.WRAPPER if wrapped else Mode.SIDECAR
            raise self._refused(
                "containers", f"has ckptrun in mode {mode} already", "begin with the manifest as it was"
            )
        for entry in self._job.get("env") or []:
            if not wrapped and _is_setting(entry) and entry["name"] not in {"CKPTRUN_SHIM_PATIENCE", _STATE}:
                raise self._refused(
                    "containers", f"sets {entry['name']}, which is ckptrun's own", "pass it as an option here"
                )
        group = (self._spec.get("securityContext") or {}).get("fsGroup")
        if self._shape.mode is Mode.WRAPPER and group and (self._shape.key or self._shape.api):
            raise self._refused(
                "securityContext.fsGroup",
                "would let the job's group read the key and the token in mode wrapper",
                "take it out, or use the mode sidecar",
            )

    def _check_pods(self) -> None:
        """Refuse a Job whose pods would share one lineage."""
        if self._document["kind"] == "Pod":
            return
        spec = self._around
        many = any(
            isinstance(spec.get(name), int) and spec[name] > 1 for name in ("parallelism", "completions")
        )
        if many and spec.get("completionMode") != "Indexed":
            raise ConfigurationError(
                f"{self.name_of(self._document)}: its pods would share one lineage",
                hint="set completionMode: Indexed, so that each index has its own",
            )
        if spec.get("completionMode") == "Indexed" and dict(self._shape.settings).get("CKPTRUN_NAME"):
            raise ConfigurationError(
                f"{self.name_of(self._document)}: --name would be the same for every index",
                hint="leave it out: each index gets a lineage of its own",
            )
        if spec.get("podReplacementPolicy") not in {None, "Failed"}:
            raise ConfigurationError(
                f"{self.name_of(self._document)}: with podReplacementPolicy {spec['podReplacementPolicy']} a second pod"
                " of the lineage would begin while the first still takes its last checkpoint",
                hint="take it out: it is Failed then",
            )

    def _check_grace(self) -> None:
        said = self._spec.get("terminationGracePeriodSeconds")
        if isinstance(said, int) and said <= self._shape.grace:
            raise self._refused(
                "terminationGracePeriodSeconds",
                f"is {said}, no longer than ckptrun's grace of {self._shape.grace:g} s: it would be cut off",
                "raise it, or pass a shorter --grace",
            )

    def _grace(self) -> int:
        said = self._spec.get("terminationGracePeriodSeconds")
        return said if isinstance(said, int) else -int(-self._shape.grace // 1) + GRACE_MARGIN

    def _whom(self) -> str:
        """Return whom the wrapped job runs as: as the manifest says."""
        before = next((e for e in self._job.get("env") or [] if e.get("name") == "CKPTRUN_USER"), None)
        if before is not None:
            return str(before["value"])
        own, pods = self._job.get("securityContext") or {}, self._spec.get("securityContext") or {}
        user = own.get("runAsUser", pods.get("runAsUser"))
        group = own.get("runAsGroup", pods.get("runAsGroup"))
        if not user:
            raise self._refused(
                "securityContext.runAsUser",
                "is missing or 0: in the wrapper mode the job is dropped to a user",
                "write the user's number there",
            )
        return f"{user}" if group is None else f"{user}:{group}"

    def _injected(self) -> bool:
        own = self._job.get("command") or []
        return own[: len(podshape.SHIM)] == [*podshape.SHIM] or self._wrapped()

    def _wrapped(self) -> bool:
        command = self._job.get("command") or []
        marked = any(entry.get("name") == "CKPTRUN_JOB_CONTAINER" for entry in self._job.get("env") or [])
        return marked or command[: len(podshape.WRAPPER)] == [*podshape.WRAPPER]

    def _own_command(self) -> list[str]:
        command: list[str] = self._job["command"]
        for prefix in (podshape.SHIM, podshape.WRAPPER):
            if command[: len(prefix)] == [*prefix]:
                return command[len(prefix) :]
        return command

    def _refused(self, field: str, problem: str, hint: str) -> ConfigurationError:
        return ConfigurationError(
            f"{self.name_of(self._document)}: {self._path}.{field} {problem}", hint=hint
        )


def _is_setting(entry: Node) -> bool:
    name = str(entry.get("name"))
    return name.startswith("CKPTRUN_") or name == _STATE


def _has_pods(document: Node) -> bool:
    node: Any = document
    for part in ("spec", "template", "spec", "containers"):
        node = node.get(part) if isinstance(node, dict) else None
    return isinstance(node, list)


def _child(node: Node, name: str) -> Node:
    found: Node = node.setdefault(name, {})
    return found
