"""CPU features and levels: what a level is, what a job picked up, what is missing elsewhere."""

from __future__ import annotations

import itertools
import platform
import subprocess
from pathlib import Path

import pytest

from ckptrun.core.cpu import LEVELS, capped, level_of, missing, noticed, parse_level
from ckptrun.errors import UsageError

V3, V4 = LEVELS["x86-64-v3"], LEVELS["x86-64-v4"]


def test_each_level_has_all_of_the_one_below():
    levels = list(LEVELS.values())
    assert all(low < high for low, high in itertools.pairwise(levels))


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("x86-64", "x86-64"),
        ("x86-64-v3", "x86-64-v3"),
        ("X86_64_V4", "x86-64-v4"),
        ("v2", "x86-64-v2"),
        ("v1", "x86-64"),
        ("x86-64-v1", "x86-64"),
    ],
)
def test_a_level_is_spelled_as_gcc_does_or_for_short(text: str, level: str):
    assert parse_level(text) == level


@pytest.mark.parametrize("text", ["", "v5", "haswell", "avx2", "3"])
def test_what_is_no_level_is_refused_with_those_that_are(text: str):
    with pytest.raises(UsageError, match="x86-64-v3"):
        parse_level(text)


def test_the_level_of_a_cpu_is_the_highest_it_has_all_of():
    assert level_of(V3 | {"avx512f"}) == "x86-64-v3"
    assert level_of(V4) == "x86-64-v4"
    assert level_of(V3 - {"sse2"}) == ""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="levels of x86-64")
def test_the_loader_of_this_machine_knows_the_same_level():
    loader = Path("/lib64/ld-linux-x86-64.so.2")
    if not loader.exists():
        pytest.skip("no glibc")
    text = subprocess.run([loader, "--help"], capture_output=True, text=True, check=True).stdout
    searched = [line.split()[0] for line in text.splitlines() if "(supported, searched)" in line]
    flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    expected = [name for name in searched if name.startswith("x86-64-v")]
    assert level_of(flags.split(":")[1].split()) == (expected[0] if expected else "x86-64")


def test_features_of_the_kernel_alone_are_not_noticed():
    assert noticed(["avx2", "smep", "pcid", "constant_tsc", "vmx", "erms"], "x86_64") == ("avx2",)
    assert noticed(["asimd", "sve"], "aarch64") == ("asimd", "sve")


def test_a_feature_that_was_there_and_is_not_here_is_missing():
    assert missing({"avx2", "avx512f"}, {"avx2", "fma"}) == ["avx512f"]
    assert missing({"avx2"}, {"avx2", "avx512f"}) == []


def test_what_lies_above_the_portable_level_is_not_missed():
    there = V4 | {"sha_ni", "avx512_vnni", "gfni"}
    assert missing(there, V3, "x86-64-v3") == []
    assert missing(there, V3, "x86-64-v4") == sorted(V4 - V3)
    assert "avx2" in missing(there, V3 - {"avx2"}, "x86-64-v3")


def test_what_no_cap_reaches_is_missed_below_every_level():
    for level in LEVELS:
        assert missing({"xsavec"}, set(), level) == ["xsavec"]
    assert "aes" in capped("x86-64-v2")
    assert "aes" not in capped("x86-64-v3")
