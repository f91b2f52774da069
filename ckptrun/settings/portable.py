"""``--portable-cpu LEVEL``: the variables that keep libraries from using more of the CPU than a level. Pure.

Libraries choose their code when they are loaded, by what the CPU has; a checkpoint then runs only where all of that
is there. Each of these can be told to stay below a level. Where the spellings come from, and what cannot be told
anything: docs/design/compat.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptrun.core.cpu import LEVELS

if TYPE_CHECKING:
    from collections.abc import Mapping

TUNABLES, NUMPY, XLA, OPENSSL = (
    "GLIBC_TUNABLES",
    "NPY_DISABLE_CPU_FEATURES",
    "XLA_FLAGS",
    "OPENSSL_ia32cap",
)
_HWCAPS = "glibc.cpu.hwcaps"
_MAX_ISA = "--xla_cpu_max_isa"

_LOWEST, _V2, _V3, _V4 = LEVELS

_VALUES: dict[str, dict[str, str]] = {
    "ATEN_CPU_CAPABILITY": {_LOWEST: "default", _V2: "default", _V3: "avx2", _V4: "avx512"},
    "ONEDNN_MAX_CPU_ISA": {_LOWEST: "SSE41", _V2: "SSE41", _V3: "AVX2", _V4: "AVX512_CORE"},
    "DNNL_MAX_CPU_ISA": {_LOWEST: "SSE41", _V2: "SSE41", _V3: "AVX2", _V4: "AVX512_CORE"},
    "MKL_ENABLE_INSTRUCTIONS": {_LOWEST: "SSE4_2", _V2: "SSE4_2", _V3: "AVX2", _V4: "AVX512"},
    "OPENBLAS_CORETYPE": {_LOWEST: "Prescott", _V2: "Nehalem", _V3: "Haswell", _V4: "SkylakeX"},
    "ARROW_USER_SIMD_LEVEL": {_LOWEST: "NONE", _V2: "SSE4_2", _V3: "AVX2", _V4: "AVX512"},
    "NUMBA_CPU_NAME": {_LOWEST: "x86-64", _V2: _V2, _V3: _V3, _V4: _V4},
    "NUMBA_CPU_FEATURES": dict.fromkeys(LEVELS, ""),
}
"""Variable -> its value for each level: the highest that the library knows below it, or its lowest."""

_ISA = {_LOWEST: "SSE4_2", _V2: "SSE4_2", _V3: "AVX2", _V4: "AVX512"}

_ABOVE_V4 = ("AVX512_ICL AVX512_SPR AVX512_CLX AVX512_CNL AVX512_KNL AVX512_KNM", "")
_ABOVE_V3 = (
    "X86_V4 AVX512_SKX AVX512F AVX512CD",
    "AVX512F AVX512VL AVX512BW AVX512CD AVX512DQ AVX512ER AVX512PF AVX512F_Usable AVX512DQ_Usable",
)
_ABOVE_V2 = (
    "X86_V3 AVX2 FMA3 FMA4 XOP F16C AVX",
    "AVX AVX2 FMA FMA4 BMI1 BMI2 LZCNT MOVBE AVX_Usable AVX2_Usable FMA_Usable FMA4_Usable",
)
_ABOVE_LOWEST = ("SSE42 POPCNT SSE41 SSSE3", "SSSE3 SSE4_1 SSE4_2 POPCNT")
_ABOVE = {
    _LOWEST: (_ABOVE_V4, _ABOVE_V3, _ABOVE_V2, _ABOVE_LOWEST),
    _V2: (_ABOVE_V4, _ABOVE_V3, _ABOVE_V2),
    _V3: (_ABOVE_V4, _ABOVE_V3),
    _V4: (_ABOVE_V4,),
}
"""Level -> what NumPy and the C library call the features above it; each ignores what it does not know."""

_SHA_AND_VECTORS = (1 << 18 | 1 << 19 | 1 << 21 | 1 << 29) | (1 << 40 | 1 << 41 | 1 << 42)
_AVX512 = 1 << 16 | 1 << 17 | 1 << 28 | 1 << 30 | 1 << 31 | 1 << 33
_BMI_AVX2 = 1 << 3 | 1 << 5 | 1 << 8
_XOP = 1 << 43
_AVX_AES = 1 << 33 | 1 << 44 | 1 << 54 | 1 << 57 | 1 << 60 | 1 << 61 | 1 << 62
_SSE4 = 1 << 32 | 1 << 41 | 1 << 51 | 1 << 52 | 1 << 55
_SHA512 = 1 << 32 | 1 << 33 | 1 << 34 | 1 << 55
_CPUID = {
    _LOWEST: (_XOP | _AVX_AES | _SSE4, _SHA_AND_VECTORS | _AVX512 | _BMI_AVX2, _SHA512),
    _V2: (_XOP | _AVX_AES, _SHA_AND_VECTORS | _AVX512 | _BMI_AVX2, _SHA512),
    _V3: (_XOP, _SHA_AND_VECTORS | _AVX512, _SHA512),
    _V4: (_XOP, _SHA_AND_VECTORS, _SHA512),
}
"""Level -> the bits OpenSSL must not see: CPUID leaf 1 EDX, ECX; leaf 7 EBX, ECX; leaf 7 EDX, its subleaf 1 EAX."""


def cap(environment: Mapping[str, str], level: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the job's environment with the caps of a level, and the names of variables that were set already.

    What the user has set stays as it is. Lists (C library, NumPy, XLA) are merged.
    """
    capped = dict(environment)
    own = []
    for name, values in {**_VALUES, OPENSSL: _openssl()}.items():
        if name not in environment:
            capped[name] = values[level]
        elif environment[name] != values[level]:
            own.append(name)
    if hidden := " ".join(names for names, _ in _ABOVE[level]):
        capped[NUMPY] = " ".join(filter(None, [environment.get(NUMPY, ""), hidden]))
    if tunables := _tunables(environment.get(TUNABLES, ""), level):
        capped[TUNABLES] = tunables
    flags = environment.get(XLA, "")
    if _MAX_ISA in flags:
        own.append(XLA)
    else:
        capped[XLA] = f"{flags} {_MAX_ISA}={_ISA[level]}".strip()
    return capped, tuple(sorted(own))


def _tunables(old: str, level: str) -> str:
    """Return the C library's tunables with the features above the level masked, after the user's own ones."""
    masked = [f"-{name}" for _, names in _ABOVE[level] for name in names.split()]
    if not masked:
        return old
    others: list[str] = []
    caps: list[str] = []
    for setting in filter(None, old.split(":")):
        name, _, value = setting.partition("=")
        (caps if name == _HWCAPS else others).append(value if name == _HWCAPS else setting)
    return ":".join([*others, f"{_HWCAPS}={','.join([*filter(None, caps), *masked])}"])


def _openssl() -> dict[str, str]:
    return {level: ":".join(f"~{bits:#x}" for bits in vectors) for level, vectors in _CPUID.items()}
