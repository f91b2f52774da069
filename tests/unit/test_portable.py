"""``--portable-cpu``: variables that hold libraries to a level; each asked of the library itself where it is here."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ckptrun.core.cpu import LEVELS, level_of
from ckptrun.settings.portable import cap

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="levels of x86-64")

LOADER = Path("/lib64/ld-linux-x86-64.so.2")
FLAGS = next(
    (line.split() for line in Path("/proc/cpuinfo").read_text().splitlines() if "flags\t" in line), []
)
HERE = list(LEVELS).index(level_of(FLAGS) or "x86-64")
LOWER = list(LEVELS)[: HERE + 1]
"""The levels that this machine can be held to."""


def run(level: str, *argv: str) -> str:
    """Return what a program prints that is held to a level."""
    environment, _ = cap(dict(os.environ), level)
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout


def python(level: str, script: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(run(level, sys.executable, "-W", "default", "-c", script))
    return found


def test_the_users_own_variables_stay_and_are_told():
    environment, own = cap({"OPENBLAS_CORETYPE": "Zen", "PATH": "/bin"}, "x86-64-v3")
    assert (environment["OPENBLAS_CORETYPE"], environment["PATH"]) == ("Zen", "/bin")
    assert own == ("OPENBLAS_CORETYPE",)
    assert environment["ATEN_CPU_CAPABILITY"] == "avx2"


def test_a_variable_that_says_the_same_is_not_told():
    assert cap({"OPENBLAS_CORETYPE": "Haswell"}, "x86-64-v3")[1] == ()


def test_the_users_tunables_are_kept_and_both_lists_hold():
    mine = "glibc.malloc.check=3:glibc.cpu.hwcaps=-ERMS:glibc.rtld.nns=4"
    tunables = cap({"GLIBC_TUNABLES": mine}, "x86-64-v3")[0]["GLIBC_TUNABLES"].split(":")
    assert tunables[:2] == ["glibc.malloc.check=3", "glibc.rtld.nns=4"]
    assert len(tunables) == 3
    assert tunables[2].startswith("glibc.cpu.hwcaps=-ERMS,-AVX512F,")


def test_without_anything_to_mask_the_tunables_stay_as_they_were():
    assert "GLIBC_TUNABLES" not in cap({}, "x86-64-v4")[0]
    assert cap({"GLIBC_TUNABLES": "glibc.rtld.nns=4"}, "x86-64-v4")[0]["GLIBC_TUNABLES"] == "glibc.rtld.nns=4"


def test_numpys_and_xlas_lists_are_merged():
    environment, own = cap({"NPY_DISABLE_CPU_FEATURES": "AVX512_SPR", "XLA_FLAGS": "--xla_x=1"}, "x86-64-v3")
    assert environment["NPY_DISABLE_CPU_FEATURES"].startswith("AVX512_SPR ")
    assert environment["XLA_FLAGS"] == "--xla_x=1 --xla_cpu_max_isa=AVX2"
    assert own == ()
    assert cap({"XLA_FLAGS": "--xla_cpu_max_isa=AMX"}, "x86-64-v3")[1] == ("XLA_FLAGS",)


@pytest.mark.skipif(not LOADER.exists(), reason="no glibc")
@pytest.mark.parametrize("level", LOWER)
def test_the_c_library_takes_itself_to_be_on_such_a_cpu(level: str):
    searched = [line for line in run(level, str(LOADER), "--help").splitlines() if "searched)" in line]
    levels = [line.split()[0] for line in searched if line.strip().startswith("x86-64-v")]
    assert (
        levels
        == [name for name in reversed(LEVELS) if name in LOWER[: LOWER.index(level) + 1]][: len(levels)]
    )
    assert len(levels) == LOWER.index(level)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")
@pytest.mark.parametrize("level", LOWER)
def test_openssl_sees_nothing_above_the_level(level: str):
    settings = run(level, "openssl", "info", "-cpusettings").split("env:")[0]
    first, second = (int(word, 16) for word in settings.strip().partition("=")[2].split(":")[:2])
    assert not second & (1 << 29), "SHA"
    bits = {"x86-64-v4": second >> 16, "x86-64-v3": second >> 5, "x86-64-v2": first >> 51}
    for name, bit in bits.items():
        assert bool(bit & 1) == (name in LOWER[: LOWER.index(level) + 1]), name


@pytest.mark.parametrize("level", LOWER)
def test_numpy_and_its_blas_use_no_code_above_the_level(level: str):
    script = (
        "import json, numpy, threadpoolctl\n"
        "from numpy._core._multiarray_umath import __cpu_dispatch__ as ways, __cpu_features__ as has\n"
        "blas = [info['architecture'] for info in threadpoolctl.threadpool_info()]\n"
        "print(json.dumps({'ways': [name for name in ways if has[name]], 'blas': blas}))"
    )
    pytest.importorskip("numpy", minversion="2.4")
    found = python(level, script)
    expected: list[str] = [
        way
        for way, least in (("X86_V3", "x86-64-v3"), ("X86_V4", "x86-64-v4"))
        if least in LOWER[: LOWER.index(level) + 1]
    ]
    assert found["ways"] == expected
    cores = {"x86-64-v4": "SkylakeX", "x86-64-v3": "Haswell", "x86-64-v2": "Nehalem"}
    if level in cores:
        assert found["blas"] == [cores[level]]
