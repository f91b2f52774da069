"""How much memory is free under the limits that hold here, in whichever layout of cgroups, and who ran out of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckptrun.criu import available
from ckptrun.criu.available import Group, groups_of

if TYPE_CHECKING:
    from pathlib import Path

POD = "/kubepods/pod7/ctr9"
V1 = f"9:cpu:{POD}\n4:memory:{POD}\n0::/\n"
V1_MOUNT = "{} - cgroup cgroup rw,memory\n30 25 0:31 / /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n"
V2_MOUNT = "{} - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.mark.parametrize(
    ("cgroup", "mountinfo", "expected"),
    [
        pytest.param(
            "0::/user.slice/a.scope\n",
            V2_MOUNT.format("29 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4"),
            [Group("/sys/fs/cgroup/user.slice/a.scope", "/sys/fs/cgroup", v2=True)],
            id="machine with version 2",
        ),
        pytest.param(
            "0::/\n",
            V2_MOUNT.format("29 24 0:26 / /sys/fs/cgroup ro,nosuid"),
            [Group("/sys/fs/cgroup", "/sys/fs/cgroup", v2=True)],
            id="container with a cgroup namespace",
        ),
        pytest.param(
            f"0::{POD}\n",
            V2_MOUNT.format(f"29 24 0:26 {POD} /sys/fs/cgroup ro"),
            [Group("/sys/fs/cgroup", "/sys/fs/cgroup", v2=True)],
            id="container without one",
        ),
        pytest.param(
            "0::/../other\n",
            V2_MOUNT.format("29 24 0:26 / /sys/fs/cgroup ro"),
            [Group("/sys/fs/cgroup", "/sys/fs/cgroup", v2=True)],
            id="moved out of its namespace",
        ),
        pytest.param(
            V1,
            V1_MOUNT.format(f"29 24 0:26 {POD} /sys/fs/cgroup/memory ro"),
            [Group("/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory", v2=False)],
            id="container with version 1",
        ),
        pytest.param(
            V1,
            V1_MOUNT.format("29 24 0:26 / /sys/fs/cgroup/memory rw"),
            [Group(f"/sys/fs/cgroup/memory{POD}", "/sys/fs/cgroup/memory", v2=False)],
            id="machine with version 1",
        ),
        pytest.param("0::/\n", "22 1 0:20 / /proc rw - proc proc rw\n", [], id="no cgroup to be seen"),
    ],
)
def test_a_memory_cgroup_is_found_where_it_can_be_seen(cgroup: str, mountinfo: str, expected: list[Group]):
    assert groups_of(cgroup, mountinfo) == expected


def filled(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("limit", "cache", "expected"),
    [("1000000000", 0, 600_000_000), ("1000000000", 300_000_000, 900_000_000), ("max", 0, 8_000_000_000)],
)
@pytest.mark.parametrize("above", [False, True])
def test_the_tightest_limit_counts_and_what_would_be_dropped_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, cache: int, expected: int, above: bool
):
    own = tmp_path / "pod" / "ctr"
    own.mkdir(parents=True)
    files = {
        "memory.max": limit,
        "memory.current": "400000000",
        "memory.stat": f"anon 5\ninactive_file {cache}\n",
    }
    filled(tmp_path / "pod" if above else own, files)
    monkeypatch.setattr(available, "own_groups", lambda: [Group(str(own), str(tmp_path), v2=True)])
    monkeypatch.setattr(available, "_meminfo_available", lambda: 8_000_000_000)
    assert available.available_memory() == expected


def test_without_a_limit_version_1_says_a_huge_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    filled(tmp_path, {"memory.limit_in_bytes": "9223372036854771712", "memory.usage_in_bytes": "4096"})
    monkeypatch.setattr(available, "own_groups", lambda: [Group(str(tmp_path), str(tmp_path), v2=False)])
    monkeypatch.setattr(available, "_meminfo_available", lambda: 8_000_000_000)
    assert available.available_memory() == 8_000_000_000


@pytest.mark.parametrize(("v2", "name"), [(True, "memory.events"), (False, "memory.oom_control")])
def test_kills_are_counted_in_the_containers_cgroup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, v2: bool, name: str
):
    filled(tmp_path, {name: "oom 9\noom_kill 3\n"})
    monkeypatch.setattr(
        available, "own_groups", lambda: [Group(str(tmp_path / "unseen"), str(tmp_path), v2=v2)]
    )
    assert available.oom_kills() == 3
