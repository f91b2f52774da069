"""What a container must be given so that jobs can be checkpointed in it, in words: Kubernetes' and podman's.

Pure; used by whoever finds that something is missing: the doctor, a run's beginning, the capsule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

SECCOMP = (
    "let the container have no seccomp filter: securityContext.seccompProfile.type: Unconfined in Kubernetes, "
    "--security-opt seccomp=unconfined for podman and docker"
)


def capabilities(names: Sequence[str]) -> str:
    """Return how a container gets capabilities."""
    listed = ", ".join(names)
    flags = " ".join(f"--cap-add {name}" for name in names)
    return (
        f"add {listed} to the container's capabilities: securityContext.capabilities.add: [{listed}] in Kubernetes, "
        f"{flags} for podman and docker"
    )


def mounting(label: str, *, capable: bool = False) -> str:
    """Return how a container is allowed to mount.

    Args:
        label: what ``/proc/self/attr/current`` says: a profile of AppArmor's, a context of SELinux's, or nothing.
        capable: the capability is there and no seccomp filter: it is neither of them.
    """
    if said := _module(label, "mounts"):
        return said
    return _UNNAMED if capable else f"{capabilities(['SYS_ADMIN'])}; {SECCOMP}"


def entering(label: str) -> str:
    """Return how a sidecar that has its capabilities is allowed to enter another container.

    Args:
        label: as for `mounting`.
    """
    return _module(label, "to trace and to enter the job's container") or _UNNAMED


def _module(label: str, what: str) -> str:
    """Return how the security module that a label is of lets a container do something; empty if it is of none."""
    profile, _, mode = label.partition(" ")
    if mode.startswith("(") and mode != "(complain)" and profile != "unconfined":
        return (
            f"AppArmor's profile {profile} forbids {what}: appArmorProfile.type: Unconfined in the container's "
            "securityContext, --security-opt apparmor=unconfined for podman and docker"
        )
    if label.count(":") >= 3 and not _UNCONFINED & set(label.split(":")):
        return (
            f"SELinux forbids {what} in the context {label}: seLinuxOptions.type: spc_t in the container's "
            "securityContext, --security-opt label=disable for podman and docker"
        )
    return ""


_UNCONFINED = frozenset({"spc_t", "unconfined_t"})
"""Types of SELinux's that forbid nothing here."""
_UNNAMED = (
    "the capabilities are there, and no seccomp filter: what forbids it is a security module of the node's kernel or "
    "its container runtime; the node's log says which (journalctl -k)"
)
