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
        ("unconfined", "seccompProfile.type: Unconfined"),
        ("unconfined (enforce)", "capabilities.add: [SYS_ADMIN]"),
        ("", "capabilities.add: [SYS_ADMIN]"),
    ],
)
def test_who_forbids_mounts_is_told_by_the_label_of_the_process(label: str, said: str):
    assert said in confinement.mounting(label)
