"""What a mountinfo says of a container's /proc."""

from __future__ import annotations

from ckptrun.capsule import masks
from ckptrun.capsule.masks import MS_NODEV, MS_NOEXEC, MS_NOSUID, Mask

CONTAINER = b"""\
618 617 0:54 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
619 618 0:54 /sys /proc/sys ro,nosuid,nodev,noexec,relatime - proc proc rw
620 618 0:5 /null /proc/kcore rw,relatime - devtmpfs devtmpfs rw
621 618 0:60 / /proc/acpi ro,relatime - tmpfs tmpfs rw,size=0k
"""
MACHINE = b"""\
22 1 0:20 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
30 22 0:28 / /proc/sys/fs/binfmt_misc rw,relatime - autofs systemd-1 rw
31 30 0:29 / /proc/sys/fs/binfmt_misc rw,relatime - binfmt_misc binfmt_misc rw
40 22 0:40 / /proc/fs/nfsd rw,relatime - nfsd nfsd rw
"""


def test_a_containers_are_found_in_their_order():
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    assert masks.parse(CONTAINER) == (
        Mask("/proc/sys", read_only=True, flags=flags),
        Mask("/proc/kcore", read_only=False),
        Mask("/proc/acpi", read_only=False),
    )


def test_what_a_machine_mounts_there_itself_is_no_mask():
    assert masks.parse(MACHINE) == ()
