"""One pod of a user's manifest: which container is the job's, and why ckptrun cannot be added to it. Pure.

Called by `ckptrun.kube.inject`, which changes what is found here. Every refusal names the field.
"""

from __future__ import annotations

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

STATE = "XDG_STATE_HOME"


class JobPod:
    """One pod of a manifest, and in it the job's container.

    Args:
        document: the manifest.
        shape: what is to be added.

    Raises:
        ConfigurationError: there is no pod in it.
    """

    def __init__(self, document: Node, shape: Shape) -> None:
        self.document = document
        self._shape = shape
        self._path = ".".join((*POD_PATHS[document["kind"]], "spec"))
        self.around: Node = document
        """What holds the pod: the Job's spec, or the Pod itself."""
        node: Any = document
        for part in POD_PATHS[document["kind"]]:
            self.around = node
            node = node.get(part) if isinstance(node, dict) else None
        if not isinstance(node, dict) or not isinstance(node.get("spec"), dict):
            raise ConfigurationError(
                f"{self.name_of(document)} has no {self._path}", hint="complete the manifest"
            )
        self.template: Node = node
        self.spec: Node = node["spec"]
        self.job: Node = {}
        """The job's container, once it was found."""
        self.user = ""
        """Whom a wrapped job runs as."""

    @staticmethod
    def name_of(document: Node) -> str:
        """Return what messages call a manifest, as ``Job train``."""
        metadata = document.get("metadata") or {}
        return (
            f"{document['kind']} {metadata.get('name') or metadata.get('generateName') or 'without a name'}"
        )

    def check(self, container: str) -> None:
        """Find the job's container; refuse what does not go together with ckptrun."""
        if not isinstance(containers := self.spec.get("containers"), list) or not containers:
            raise self._refused("containers", "is empty", "complete the manifest")
        self._check_host()
        self.job = self._chosen([c for c in containers if c.get("name") != podshape.SIDECAR], container)
        place = f"containers[{containers.index(self.job)}]"
        if not self.job.get("command"):
            raise self._refused(
                f"{place}.command",
                f"is missing in container {self.job.get('name')}: the image's ENTRYPOINT cannot be known from here",
                "write the program there (docker image inspect shows the image's)",
            )
        for mount in self.job.get("volumeMounts") or []:
            path = str(mount.get("mountPath", ""))
            under = path == podshape.FOLDER or path.startswith(f"{podshape.FOLDER}/")
            if under and not podshape.is_own_volume(mount.get("name", "")):
                raise self._refused(f"{place}.volumeMounts", f"has {path}, which is ckptrun's", "move it")
        if not self.injected():
            for volume in self.spec.get("volumes") or []:
                if podshape.is_own_volume(volume.get("name", "")):
                    raise self._refused("volumes", f"has {volume['name']}, a name of ckptrun's", "rename it")
        self._check_mode()
        self._check_pods()
        self._check_grace()
        if self._shape.mode is Mode.WRAPPER:
            self.user = self._whom()

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
        if self.spec.get("hostPID"):
            raise self._refused(
                "hostPID", "is true: the job's processes could not be told from the node's", "take it out"
            )
        if self.spec.get("hostUsers") is False:
            raise self._refused(
                "hostUsers", "is false: in a user namespace no checkpoint can be taken", "take it out"
            )
        if self._shape.mode is Mode.SIDECAR and self.spec.get("shareProcessNamespace") is False:
            raise self._refused(
                "shareProcessNamespace",
                "is false: the sidecar would not see the job",
                "take it out, or pass --mode wrapper",
            )
        system = (self.spec.get("os") or {}).get("name")
        selected = (self.spec.get("nodeSelector") or {}).get("kubernetes.io/os")
        if "windows" in {system, selected}:
            raise self._refused(
                "os" if system else "nodeSelector", "asks for Windows", "ckptrun is for Linux"
            )

    def _check_mode(self) -> None:
        """Refuse what the other mode has changed, and what is at odds with this one."""
        wrapped = self.wrapped()
        if self.injected() and wrapped is not (self._shape.mode is Mode.WRAPPER):
            mode = Mode.WRAPPER if wrapped else Mode.SIDECAR
            raise self._refused(
                "containers", f"has ckptrun in mode {mode} already", "begin with the manifest as it was"
            )
        for entry in self.job.get("env") or []:
            if not wrapped and is_setting(entry) and entry["name"] not in {"CKPTRUN_SHIM_PATIENCE", STATE}:
                raise self._refused(
                    "containers", f"sets {entry['name']}, which is ckptrun's own", "pass it as an option here"
                )
        group = (self.spec.get("securityContext") or {}).get("fsGroup")
        if self._shape.mode is Mode.WRAPPER and group and (self._shape.key or self._shape.api):
            raise self._refused(
                "securityContext.fsGroup",
                "would let the job's group read the key and the token in mode wrapper",
                "take it out, or use the mode sidecar",
            )

    def _check_pods(self) -> None:
        """Refuse a Job whose pods would share one lineage."""
        if self.document["kind"] == "Pod":
            return
        spec = self.around
        many = any(
            isinstance(spec.get(name), int) and spec[name] > 1 for name in ("parallelism", "completions")
        )
        if many and spec.get("completionMode") != "Indexed":
            raise ConfigurationError(
                f"{self.name_of(self.document)}: its pods would share one lineage",
                hint="set completionMode: Indexed, so that each index has its own",
            )
        if spec.get("completionMode") == "Indexed" and dict(self._shape.settings).get("CKPTRUN_NAME"):
            raise ConfigurationError(
                f"{self.name_of(self.document)}: --name would be the same for every index",
                hint="leave it out: each index gets a lineage of its own",
            )
        if spec.get("podReplacementPolicy") not in {None, "Failed"}:
            raise ConfigurationError(
                f"{self.name_of(self.document)}: with podReplacementPolicy {spec['podReplacementPolicy']} a second pod"
                " of the lineage would begin while the first still takes its last checkpoint",
                hint="take it out: it is Failed then",
            )

    def _check_grace(self) -> None:
        said = self.spec.get("terminationGracePeriodSeconds")
        if isinstance(said, int) and said <= self._shape.grace:
            raise self._refused(
                "terminationGracePeriodSeconds",
                f"is {said}, no longer than ckptrun's grace of {self._shape.grace:g} s: it would be cut off",
                "raise it, or pass a shorter --grace",
            )

    def _whom(self) -> str:
        """Return whom the wrapped job runs as: as the manifest says."""
        before = next((e for e in self.job.get("env") or [] if e.get("name") == "CKPTRUN_USER"), None)
        if before is not None:
            return str(before["value"])
        own, pods = self.job.get("securityContext") or {}, self.spec.get("securityContext") or {}
        user = own.get("runAsUser", pods.get("runAsUser"))
        group = own.get("runAsGroup", pods.get("runAsGroup"))
        if not user:
            raise self._refused(
                "securityContext.runAsUser",
                "is missing or 0: in the wrapper mode the job is dropped to a user",
                "write the user's number there",
            )
        return f"{user}" if group is None else f"{user}:{group}"

    def injected(self) -> bool:
        """Tell whether the job's container has been changed for ckptrun already."""
        own = self.job.get("command") or []
        return own[: len(podshape.SHIM)] == [*podshape.SHIM] or self.wrapped()

    def wrapped(self) -> bool:
        """Tell whether that was done in the wrapper mode."""
        command = self.job.get("command") or []
        marked = any(entry.get("name") == "CKPTRUN_JOB_CONTAINER" for entry in self.job.get("env") or [])
        return marked or command[: len(podshape.WRAPPER)] == [*podshape.WRAPPER]

    def _refused(self, field: str, problem: str, hint: str) -> ConfigurationError:
        return ConfigurationError(f"{self.name_of(self.document)}: {self._path}.{field} {problem}", hint=hint)


def is_setting(entry: Node) -> bool:
    """Tell whether a container's variable is ckptrun's own."""
    name = str(entry.get("name"))
    return name.startswith("CKPTRUN_") or name == STATE
