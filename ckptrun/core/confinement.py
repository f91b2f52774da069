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


def mounting(label: str) -> str:
    """Return how a container is allowed to mount.

    Args:
        label: what ``/proc/self/attr/current`` says: a profile of AppArmor's, a context of SELinux's, or nothing.
    """
    profile, _, mode = label.partition(" ")
    if mode.startswith("(") and profile != "unconfined":
        return (
            f"AppArmor's profile {profile} forbids mounts: appArmorProfile.type: Unconfined in the container's "
            "securityContext, --security-opt apparmor=unconfined for podman and docker"
        )
    if label.count(":") >= 3:
        return (
            f"SELinux forbids mounts in the context {label}: seLinuxOptions.type: spc_t in the container's "
            "securityContext, --security-opt label=disable for podman and docker"
        )
    return f"{capabilities(['SYS_ADMIN'])}; {SECCOMP}"
