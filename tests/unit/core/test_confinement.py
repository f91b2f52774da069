"""What a container is told to be given, in the words of Kubernetes' security context."""

from __future__ import annotations

import pytest

from ckptrun.core import confinement


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (
            "docker-default (enforce)",
            "AppArmor's profile docker-default forbids mounts: appArmorProfile.type: Unconfined",
        ),
        ("cri-containerd.apparmor.d (enforce)", "--security-opt apparmor=unconfined"),
        ("system_u:system_r:container_t:s0:c4,c9", "seLinuxOptions.type: spc_t"),
        ("system_u:system_r:container_t:s0", "--security-opt label=disable"),
        ("system_u:system_r:spc_t:s0:c1,c2", "capabilities.add: [SYS_ADMIN]"),
        ("crio-default (complain)", "capabilities.add: [SYS_ADMIN]"),
        ("unconfined", "seccompProfile.type: Unconfined"),
        ("unconfined (enforce)", "capabilities.add: [SYS_ADMIN]"),
        ("", "capabilities.add: [SYS_ADMIN]"),
    ],
)
def test_who_forbids_mounts_is_told_by_the_label_of_the_process(label: str, said: str):
    assert said in confinement.mounting(label)


def test_what_has_the_capability_is_not_told_to_add_it():
    assert "add SYS_ADMIN" not in (said := confinement.mounting("", capable=True))
    assert "security module of the node's kernel" in said
    assert "AppArmor's profile x" in confinement.mounting("x (enforce)", capable=True)


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (
            "x (enforce)",
            "AppArmor's profile x forbids to trace and to enter the job's container: appArmorProfile.type",
        ),
        (
            "u:r:container_t:s0",
            "SELinux forbids to trace and to enter the job's container in the context u:r:",
        ),
        ("", "the capabilities are there"),
    ],
)
def test_who_keeps_a_sidecar_out_of_the_jobs_container_is_told(label: str, said: str):
    assert said in confinement.entering(label)
