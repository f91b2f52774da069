"""What a capsule that the kernel refused is said to need: who forbids it, and the field that allows it."""

from __future__ import annotations

import pytest

from ckptrun.capsule import refusals
from ckptrun.capsule.refusals import explain
from ckptrun.errors import MissingFeatureError, PermissionMissingError


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("cri-containerd.apparmor.d (enforce)", "appArmorProfile.type: Unconfined"),
        ("system_u:system_r:container_t:s0:c1,c2", "seLinuxOptions.type: spc_t"),
        ("", "securityContext.capabilities.add: [SYS_ADMIN]"),
    ],
)
def test_root_that_may_not_mount_is_told_who_forbids_it(
    monkeypatch: pytest.MonkeyPatch, label: str, said: str
):
    monkeypatch.setattr(refusals, "security_label", lambda: label)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(refusals, "may_mount", lambda: False)
    refused = explain("13 mount /proc")
    assert isinstance(refused, PermissionMissingError)
    assert said in refused.hint
    assert "mount /proc: Permission denied" in refused.message


def test_an_ordinary_user_is_sent_to_the_doctor(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert explain("1 mount /proc").hint == "ckptrun doctor says what this machine lacks"


def test_an_image_without_a_place_for_shared_memory_is_told_so():
    refused = explain("2 mount /dev/shm")
    assert isinstance(refused, MissingFeatureError)
    assert "the image must have the folder /dev/shm" in refused.hint
