"""What ckptrun adds to a pod: its containers, their rights and environment, and the volumes. Pure.

The shape is that of docs/design/kubernetes.md; the chart in helm/ckptrun renders the same, and a test compares them.
Called by `ckptrun.kube.inject`, which fits it into a manifest.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from ckptrun.settings.names import store_directory

Node = dict[str, Any]
"""A mapping of a manifest."""

INSTALL, SIDECAR = "ckptrun-install", "ckptrun"
"""The names of ckptrun's own containers."""

FOLDER = "/ckptrun"
SHIM = (f"{FOLDER}/bin/ckptrun-shim", "--")
"""What a job's command begins with in the sidecar mode."""
WRAPPER = ("ckptrun", "run", "--")
"""What it begins with in the wrapper mode."""

OWN_VOLUME = "ckptrun"
"""The volume of `FOLDER`; the names of all others of ckptrun's begin with it and a dash."""

CAPABILITIES = (
    "SYS_ADMIN", "SYS_PTRACE", "SYS_TIME", "SETUID", "SETGID", "SETPCAP", "SYS_CHROOT", "DAC_OVERRIDE",
    "DAC_READ_SEARCH", "KILL",
)  # fmt: skip
"""Each one needed; DAC_READ_SEARCH for files that were written and closed between checkpoints."""

NATIVE_SIDECARS = (1, 29)
APP_ARMOR_FIELD = (1, 30)
REPLACEMENT = (1, 29)
NEWEST = (1, 37)
"""Versions of Kubernetes: the first with each thing, and the newest that the tests hold manifests to."""

_NO_EMPTY_CONDITIONS = (1, 29)
"""Before it, a podFailurePolicy's schema wants onPodConditions in each rule."""

APP_ARMOR_ANNOTATION = "container.apparmor.security.beta.kubernetes.io/"
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
STARTUP_SECONDS = 120


class Mode(enum.StrEnum):
    """Who checkpoints: a container beside the job's, or ckptrun in the job's own."""

    SIDECAR = "sidecar"
    WRAPPER = "wrapper"


@dataclass(frozen=True, slots=True)
class Shape:
    """What is said about the pod.

    Args:
        image: ckptrun's; not used in the wrapper mode.
        store: URL of the store.
        settings: other settings of a run, by variable (``CKPTRUN_…``), in their order.
        credentials: the Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; empty for none.
        key: the Secret with the key; empty for none.
        key_item: the item of it that is the key.
        store_claim: the PersistentVolumeClaim of a ``file://`` store; empty for none.
        mode: see `Mode`.
        lineage_key: ``name`` or ``uid``.
        grace: seconds of ckptrun's for a last checkpoint.
        api: mount the service account's token for ckptrun.
        version: the cluster's, as (1, 34).
    """

    image: str
    store: str
    settings: tuple[tuple[str, str], ...] = ()
    credentials: str = ""
    key: str = ""
    key_item: str = "key"
    store_claim: str = ""
    mode: Mode = Mode.SIDECAR
    lineage_key: str = "name"
    grace: float = 30.0
    api: bool = True
    version: tuple[int, int] = NEWEST

    @property
    def native(self) -> bool:
        """Whether the sidecar is an init container that stays."""
        return self.version >= NATIVE_SIDECARS


def is_own_volume(name: str) -> bool:
    """Tell whether a volume of that name is ckptrun's."""
    return name == OWN_VOLUME or name.startswith(f"{OWN_VOLUME}-")


def install(shape: Shape) -> Node:
    """Return the init container that puts shim and CRIU where both containers find them."""
    return {
        "name": INSTALL,
        "image": shape.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["ckptrun", "kube", "install", FOLDER],
        **({"env": [_field(name, path) for name, path in _WHICH_POD]} if shape.api else {}),
        "securityContext": {
            **_ROOT,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "resources": _resources(),
        "volumeMounts": [{"name": OWN_VOLUME, "mountPath": FOLDER}, *_api_mount(shape)],
    }


def sidecar(shape: Shape, container: str) -> Node:
    """Return the container that checkpoints ``container``."""
    staying: Node = {"command": ["ckptrun", "sidecar", "--once"]}
    if shape.native:
        probe = {"exec": {"command": ["ckptrun", "sidecar", "--ready"]}}
        every = {"periodSeconds": 2, "timeoutSeconds": 10, "failureThreshold": STARTUP_SECONDS // 2}
        staying = {
            "command": ["ckptrun", "sidecar"],
            "restartPolicy": "Always",
            "startupProbe": {**probe, **every},
        }
    return {
        "name": SIDECAR,
        "image": shape.image,
        "imagePullPolicy": "IfNotPresent",
        **staying,
        "env": environment(shape, container),
        "securityContext": {**capable(shape), "readOnlyRootFilesystem": True},
        "resources": _resources(),
        "volumeMounts": [*own_mounts(shape), {"name": "ckptrun-tmp", "mountPath": "/tmp"}],  # noqa: S108 -- its own
    }


def capable(shape: Shape) -> Node:
    """Return the securityContext of the container that checkpoints."""
    rights = {
        **_ROOT,
        "capabilities": {"drop": ["ALL"], "add": list(CAPABILITIES)},
        "seccompProfile": {"type": "Unconfined"},
    }
    if shape.version >= APP_ARMOR_FIELD:
        rights["appArmorProfile"] = {"type": "Unconfined"}
    return rights


def environment(shape: Shape, container: str, user: str = "") -> list[Node]:
    """Return what ckptrun is told: which pod this is, whose job, which store, and how to checkpoint."""
    told = [
        *(_field(name, path) for name, path in (*_WHICH_POD, *_WHOSE_POD)),
        _value("CKPTRUN_JOB_CONTAINER", container),
        _value("CKPTRUN_LINEAGE_KEY", shape.lineage_key),
        *([] if shape.api else [_value("CKPTRUN_KUBE_API", "off")]),
        _value("XDG_STATE_HOME", f"{FOLDER}/state"),
    ]
    if user:
        told.append(_value("CKPTRUN_USER", user))
    told.append(_value("CKPTRUN_STORE", shape.store))
    if shape.credentials:
        told += [_secret(f"CKPTRUN_{item}", shape.credentials, item) for item in _CREDENTIALS]
    if shape.key:
        told.append(_value("CKPTRUN_KEY_FILE", f"{_KEY_FOLDER}/key"))
    return told + [_value(name, value) for name, value in shape.settings]


def own_mounts(shape: Shape) -> list[Node]:
    """Return the mounts of the container that checkpoints."""
    mounts: list[Node] = [{"name": OWN_VOLUME, "mountPath": FOLDER}]
    if shape.key:
        mounts.append({"name": "ckptrun-key", "mountPath": _KEY_FOLDER, "readOnly": True})
    if shape.store_claim:
        mounts.append({"name": "ckptrun-store", "mountPath": str(store_directory(shape.store))})
    return [*mounts, *_api_mount(shape)]


def volumes(shape: Shape) -> list[Node]:
    """Return ckptrun's volumes; the job's container mounts none but `OWN_VOLUME`."""
    found: list[Node] = [{"name": OWN_VOLUME, "emptyDir": {}}]
    if shape.mode is Mode.SIDECAR:
        found.append({"name": "ckptrun-tmp", "emptyDir": {}})
    if shape.key:
        items = [{"key": shape.key_item, "path": "key"}]
        secret = {"secretName": shape.key, "defaultMode": 0o400, "items": items}
        found.append({"name": "ckptrun-key", "secret": secret})
    if shape.store_claim:
        found.append(
            {
                "name": "ckptrun-store",
                "persistentVolumeClaim": {"claimName": shape.store_claim},
            }
        )
    if shape.api:
        found.append({"name": "ckptrun-api", "projected": _account()})
    return found


def failure_policy(shape: Shape, container: str) -> Node:
    """Return a Job's podFailurePolicy: which ends another pod goes on from, and which none would cure."""

    def codes(*values: int) -> Node:
        said: Node = {"onExitCodes": {"containerName": container, "operator": "In", "values": list(values)}}
        return said if shape.version >= _NO_EMPTY_CONDITIONS else {**said, "onPodConditions": []}

    disrupted = [{"type": "DisruptionTarget", "status": "True"}]
    return {
        "rules": [
            {"action": "Ignore", **codes(75)},
            {"action": "Ignore", "onPodConditions": disrupted},
            {"action": "FailJob", **codes(64, 77, 78, 126, 127)},
        ]
    }


_ROOT: Node = {"runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": False}
_KEY_FOLDER = "/etc/ckptrun/key"
_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_WHICH_POD = (
    ("CKPTRUN_POD_NAME", "metadata.name"),
    ("CKPTRUN_POD_NAMESPACE", "metadata.namespace"),
    ("CKPTRUN_POD_UID", "metadata.uid"),
    ("CKPTRUN_NODE_NAME", "spec.nodeName"),
    ("CKPTRUN_SERVICE_ACCOUNT", "spec.serviceAccountName"),
)
"""What the init container is told as well, for an Event if it fails."""
_WHOSE_POD = (
    ("CKPTRUN_JOB_NAME", "metadata.labels['batch.kubernetes.io/job-name']"),
    ("CKPTRUN_JOB_UID", "metadata.labels['batch.kubernetes.io/controller-uid']"),
    ("CKPTRUN_COMPLETION_INDEX", "metadata.annotations['batch.kubernetes.io/job-completion-index']"),
)


def _api_mount(shape: Shape) -> list[Node]:
    return [{"name": "ckptrun-api", "mountPath": ACCOUNT, "readOnly": True}] if shape.api else []


def _field(name: str, path: str) -> Node:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _value(name: str, value: str) -> Node:
    return {"name": name, "value": value}


def _secret(name: str, secret: str, item: str) -> Node:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": item}}}


def _resources() -> Node:
    return {"requests": {"cpu": "100m", "memory": "256Mi"}}


def _account() -> Node:
    """What Kubernetes mounts for a service account, for one container."""
    return {
        "defaultMode": 0o400,
        "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {
                "downwardAPI": {
                    "items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]
                }
            },
        ],
    }
