"""What a pod's manifest says of its containers, as a kubelet reads it: no process is started here.

Whatever a manifest has that is not played here is refused, so that no test passes because a line of the chart
was overlooked. What may be ignored without changing what is tested stands in the sets below.
"""

from __future__ import annotations

import base64
import copy
import dataclasses
import os
import re
import uuid
from typing import TYPE_CHECKING, Any

from podman import Security

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

Dict = dict[str, Any]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


POD_FIELDS = _words("""
    containers initContainers volumes restartPolicy terminationGracePeriodSeconds shareProcessNamespace
    securityContext hostNetwork serviceAccountName automountServiceAccountToken resources
""")
POD_IGNORED = _words("""
    affinity nodeSelector tolerations topologySpreadConstraints priorityClassName dnsPolicy enableServiceLinks
    schedulerName activeDeadlineSeconds imagePullSecrets serviceAccount
""")
CONTAINER_FIELDS = _words("""
    name image command args env envFrom workingDir volumeMounts resources securityContext restartPolicy
    startupProbe lifecycle
""")
CONTAINER_IGNORED = _words("""
    imagePullPolicy ports readinessProbe livenessProbe terminationMessagePath terminationMessagePolicy
""")
# What container runtimes of Kubernetes leave root where nothing is dropped.
DEFAULT_CAPABILITIES = _words("""
    AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP SETUID
    SYS_CHROOT
""")
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


class ConfigError(Exception):
    """The pod cannot be started as it is described; Kubernetes would leave it Pending with this message."""


@dataclasses.dataclass(frozen=True)
class ApiServer:
    """What a pod is told of the API server: a port of its loopback, its account's token, and the CA in PEM.

    Args:
        add: makes a pod of this name and uid known there, before anything of it runs.
    """

    port: int
    token: str
    ca: str
    add: Callable[[str, str], object] = lambda _name, _uid: None


@dataclasses.dataclass(frozen=True)
class Cluster:
    """What a kubelet knows beside the manifest.

    Args:
        images: image of the manifest -> image of this machine.
        secrets: name -> key -> text.
        config_maps: likewise.
        claims: name of a PersistentVolumeClaim -> folder of this machine.
        namespace: of the pod.
        node: its node's name.
        api: None where nothing answers.
        seccomp_default: the kubelet's setting of that name.
    """

    images: Mapping[str, str] = dataclasses.field(default_factory=dict)
    secrets: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    config_maps: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    claims: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    namespace: str = "default"
    node: str = "node-1"
    api: ApiServer | None = None
    seccomp_default: bool = False


def pod_of(manifest: Dict, *, index: int | None = None, job_uid: str = "") -> Dict:
    """Return the pod that Kubernetes makes of a Pod, Job or CronJob: name, uid and the Job's labels included.

    Args:
        manifest: as rendered.
        index: the completion index; 0 unless told, where the Job is indexed.
        job_uid: of the Job, the same for all its pods; made up unless told.
    """
    manifest = copy.deepcopy(manifest)
    kind = manifest.get("kind", "Pod")
    name = manifest["metadata"]["name"]
    if kind == "Pod":
        pod = {"metadata": manifest["metadata"], "spec": manifest["spec"]}
    else:
        assert kind in {"Job", "CronJob"}, f"a {kind} is not played"
        job = manifest["spec"]
        if kind == "CronJob":
            job, name = job["jobTemplate"]["spec"], f"{name}-29000000"
        pod = job["template"]
        metadata = pod.setdefault("metadata", {})
        controller = job_uid or str(uuid.uuid4())
        labels = {"job-name": name, "controller-uid": controller}
        labels |= {f"batch.kubernetes.io/{key}": value for key, value in labels.items()}
        metadata["labels"] = {**(metadata.get("labels") or {}), **labels}
        if job.get("completionMode") == "Indexed":
            key, number = "batch.kubernetes.io/job-completion-index", str(index or 0)
            metadata["labels"][key] = number
            metadata["annotations"] = {**(metadata.get("annotations") or {}), key: number}
            name = f"{name}-{number}"
            for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
                container.setdefault("env", []).append({"name": "JOB_COMPLETION_INDEX", "value": number})
        metadata["name"] = f"{name}-{uuid.uuid4().hex[:5]}"
    pod["metadata"].setdefault("uid", str(uuid.uuid4()))
    check(pod["spec"])
    return pod


def check(spec: Dict) -> None:
    """Refuse what is not played."""
    if unknown := set(spec) - {*POD_FIELDS, *POD_IGNORED}:
        raise AssertionError(f"not played here: pod {sorted(unknown)}")
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        if unknown := set(container) - {*CONTAINER_FIELDS, *CONTAINER_IGNORED}:
            raise AssertionError(f"not played here: container {container['name']}: {sorted(unknown)}")


class PodSpec:
    """One pod's manifest, read for its containers.

    Args:
        pod: from `pod_of`.
        cluster: what surrounds it.
    """

    def __init__(self, pod: Dict, cluster: Cluster) -> None:
        self.metadata: Dict = pod["metadata"]
        self.spec: Dict = pod["spec"]
        self.cluster = cluster

    def env(self, container: Dict) -> dict[str, str]:
        """Return a container's own variables, with the references to earlier ones filled in."""
        api = self.cluster.api
        found = {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(api.port if api else 443),
        }
        for source in container.get("envFrom", []):
            prefix = source.get("prefix", "")
            found |= {prefix + key: value for key, value in self._all_of(source).items()}
        for variable in container.get("env", []):
            value = variable.get("value")
            if value is None and "valueFrom" in variable:
                value = self._value_from(variable["valueFrom"], container)
                if value is None:
                    continue  # optional, and not there
            elif value is not None:
                value = expand(str(value), found)
            found[variable["name"]] = value or ""
        return found

    def _all_of(self, source: Dict) -> Mapping[str, str]:
        if "secretRef" in source:
            return self._named("secret", source["secretRef"]) or {}
        return self._named("configmap", source["configMapRef"]) or {}

    def _named(self, kind: str, reference: Dict, key: str = "name") -> Mapping[str, str] | None:
        held = self.cluster.secrets if kind == "secret" else self.cluster.config_maps
        name = reference[key]
        if name in held:
            return held[name]
        if reference.get("optional"):
            return None
        raise ConfigError(f'{kind} "{name}" not found')

    def _value_from(self, source: Dict, container: Dict) -> str | None:
        if "fieldRef" in source:
            return self.field(source["fieldRef"]["fieldPath"])
        if "resourceFieldRef" in source:
            return self._resource(source["resourceFieldRef"], container)
        kind, reference = next(iter(source.items()))
        values = self._named("secret" if kind == "secretKeyRef" else "configmap", reference)
        if values is not None and reference["key"] in values:
            return values[reference["key"]]
        if reference.get("optional"):
            return None
        raise ConfigError(f"couldn't find key {reference['key']} in {kind} {reference['name']}")

    def field(self, path: str) -> str:
        """Return what the downward API answers for ``metadata.labels['x']`` and its like."""
        if match := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
            return str((self.metadata.get(match[1]) or {}).get(match[2], ""))
        known = {
            "metadata.name": self.metadata["name"],
            "metadata.namespace": self.cluster.namespace,
            "metadata.uid": self.metadata["uid"],
            "spec.nodeName": self.cluster.node,
            "spec.serviceAccountName": self.spec.get("serviceAccountName", "default"),
            "status.podIP": "127.0.0.1",
            "status.hostIP": "127.0.0.1",
        }
        return str(known[path])

    def _resource(self, reference: Dict, container: Dict) -> str:
        wanted = reference.get("containerName", container["name"])
        every = [*self.spec.get("initContainers", []), *self.spec["containers"]]
        owner = next(one for one in every if one["name"] == wanted)
        kind, _, name = reference["resource"].partition(".")
        amount = quantity(owner.get("resources", {}).get(kind, {}).get(name, 0))
        return str(int(-(-amount // quantity(reference.get("divisor", 1) or 1))))

    def security(self, container: Dict) -> Security:
        """Return what a container may do; a setting of its own goes before the pod's.

        Raises:
            ConfigError: it must not be root, and would be.
        """
        own = {**(self.spec.get("securityContext") or {}), **(container.get("securityContext") or {})}
        user = own.get("runAsUser")
        if own.get("runAsNonRoot") and not user:
            raise ConfigError(f"container {container['name']} has runAsNonRoot and image will run as root")
        default = "RuntimeDefault" if self.cluster.seccomp_default else "Unconfined"
        filtered = own.get("seccompProfile", {}).get("type", default) == "RuntimeDefault"
        limits = container.get("resources", {}).get("limits", {})
        return Security(
            user="" if user is None else f"{user}:{own.get('runAsGroup', 0)}",
            caps=_capabilities(own.get("capabilities") or {}),
            seccomp="default" if filtered else "unconfined",
            read_only=bool(own.get("readOnlyRootFilesystem")),
            no_new_privileges=own.get("allowPrivilegeEscalation") is False,
            memory=int(quantity(limits.get("memory", 0))),
        )

    def flags(self, container: Dict) -> list[str]:
        """Return what else `podman run` is told."""
        own = {**(self.spec.get("securityContext") or {}), **(container.get("securityContext") or {})}
        groups = [*own.get("supplementalGroups", []), *([own["fsGroup"]] if "fsGroup" in own else [])]
        flags = [f"--group-add={group}" for group in groups]
        if own.get("privileged"):
            flags.append("--privileged")
        if own.get("procMount") == "Unmasked":
            flags.append("--security-opt=unmask=ALL")
        return flags

    def mounts(self, container: Dict, volumes: Mapping[str, Path]) -> list[tuple[Path, str, str]]:
        """Return (folder, place, ``rw`` or ``ro``) of a container."""
        found = []
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                raise ConfigError(f"volumeMounts: no volume named {mount['name']!r}")
            source = volumes[mount["name"]]
            if sub := mount.get("subPath"):
                source /= sub
                if not source.exists():
                    source.mkdir(parents=True)
            found.append((source, mount["mountPath"], "ro" if mount.get("readOnly") else "rw"))
        if self.cluster.api is not None and self.spec.get("automountServiceAccountToken", True):
            found.append((volumes[ACCOUNT], ACCOUNT, "ro"))
        return found

    def write(self, volume: Dict, folder: Path) -> None:
        """Make the files of a configMap, secret, downwardAPI or projected volume."""
        folder.mkdir(parents=True, exist_ok=True)
        for source in volume["projected"]["sources"] if "projected" in volume else [volume]:
            for name, text in self._files(source).items():
                (path := folder / name).parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
                kind = next((source[kind] for kind in ("configMap", "secret") if kind in source), {})
                path.chmod(kind.get("defaultMode", 0o644))

    def _files(self, source: Dict) -> Mapping[str, str]:
        if "downwardAPI" in source:
            return {i["path"]: self.field(i["fieldRef"]["fieldPath"]) for i in source["downwardAPI"]["items"]}
        if "serviceAccountToken" in source:
            return {
                source["serviceAccountToken"]["path"]: self.cluster.api.token if self.cluster.api else "token"
            }
        kind = "secret" if "secret" in source else "configMap"
        reference = source[kind]
        values = (
            self._named(kind.lower(), reference, "secretName" if "secretName" in reference else "name") or {}
        )
        if "items" in reference:
            return {item["path"]: values[item["key"]] for item in reference["items"]}
        return values

    def account(self, folder: Path) -> None:
        """Make the files of the service account."""
        assert self.cluster.api is not None
        folder.mkdir(parents=True)
        texts = {
            "token": self.cluster.api.token,
            "ca.crt": self.cluster.api.ca,
            "namespace": self.cluster.namespace,
        }
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")

    def own(self, folder: Path) -> None:
        """Give an emptyDir to the pod's fsGroup."""
        if (group := (self.spec.get("securityContext") or {}).get("fsGroup")) is not None:
            os.chown(folder, 0, group)
            folder.chmod(0o2777)


def secret_of(manifest: Dict) -> dict[str, str]:
    """Return the texts of a Secret or ConfigMap, for `Cluster`."""
    data = {key: base64.b64decode(value).decode() for key, value in (manifest.get("data") or {}).items()}
    if manifest["kind"] == "ConfigMap":
        data = manifest.get("data") or {}
    return {**data, **(manifest.get("stringData") or {})}


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Fill in ``$(NAME)``; unknown names stay, and ``$$`` is a single ``$``."""

    def fill(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else variables.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", fill, text)


def quantity(text: str | float) -> float:
    """Return a number of Kubernetes', as ``512Mi``, ``1G`` or ``250m``."""
    units = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    units |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    match = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", str(text))
    assert match is not None, f"not a quantity: {text!r}"
    return float(match[1]) * units.get(match[2], 1)


def _capabilities(asked: Dict) -> list[str]:
    drop = {name.removeprefix("CAP_") for name in asked.get("drop", [])}
    kept = [] if "ALL" in drop else [name for name in DEFAULT_CAPABILITIES if name not in drop]
    return sorted({*kept, *(name.removeprefix("CAP_") for name in asked.get("add", []))})
