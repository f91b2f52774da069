"""What a container's mountinfo tells of its /proc."""

from __future__ import annotations

from ckptrun.capsule.masks import MS_NODEV, MS_NOEXEC, MS_NOSUID, Mask, after, before, parse

MOUNTINFO = rb"""
812 760 0:70 / / ro,relatime master:1 - overlay overlay rw,lowerdir=/a
813 812 0:81 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
814 813 0:81 /bus /proc/bus ro,nosuid,nodev,noexec,relatime - proc proc rw
815 813 0:81 /sys /proc/sys ro,nosuid,nodev,noexec,relatime - proc proc rw
816 813 0:82 /null /proc/kcore rw,nosuid,noexec - devtmpfs devtmpfs rw,size=65536k
817 813 0:83 / /proc/acpi ro,relatime - tmpfs tmpfs ro,size=0k
818 813 0:84 /proc/meminfo /proc/meminfo rw,nosuid - fuse.lxcfs lxcfs rw
819 813 0:81 /irq /proc/irq rw,relatime - proc proc rw
820 813 0:85 / /proc/odd\040name ro - tmpfs tmpfs ro
821 815 0:86 / /proc/sys ro - tmpfs tmpfs ro
822 812 0:87 / /processes rw - tmpfs tmpfs rw
""".lstrip()
FLAGS = MS_NOSUID | MS_NODEV | MS_NOEXEC


def test_masks_are_what_is_mounted_on_parts_of_proc():
    assert parse(MOUNTINFO) == (
        Mask("/proc/bus", read_only=True, flags=FLAGS),
        Mask("/proc/kcore", read_only=False),
        Mask("/proc/acpi", read_only=False),
        Mask("/proc/meminfo", read_only=False),
        Mask("/proc/odd name", read_only=False),
        Mask("/proc/sys", read_only=False),
    )


def test_covers_are_taken_from_the_old_proc_and_protection_is_made_on_the_new():
    masks = parse(MOUNTINFO)
    assert [step[1] for step in before(masks)] == [m.path for m in masks if not m.read_only]
    steps = after(masks)
    assert steps[:2] == [
        ("mount", "/proc/bus", "/proc/bus", "", 4096, ""),
        ("mount", "", "/proc/bus", "", 32 | 4096 | 1 | FLAGS, ""),
    ]
    assert ("put", "/proc/kcore") in steps


def test_where_sysctls_are_protected_the_counter_of_pids_stays_writable():
    steps = after((Mask("/proc/sys", read_only=True, flags=FLAGS),))
    assert steps[-1] == ("mount", "", "/proc/sys/kernel/ns_last_pid", "", 32 | 4096 | FLAGS, "")
    assert not any("ns_last_pid" in str(step) for step in after((Mask("/proc/bus", read_only=True),)))


def test_outside_of_containers_there_is_nothing_to_put():
    assert parse(b"22 1 0:20 / /proc rw - proc proc rw\n") == ()
