"""What a CPU can do, as far as a program notices: features by the kernel's names, and the x86-64 levels made of them.

Pure. Called by ``settings`` (``--portable-cpu``) and by the supervisor, which compares a checkpoint's CPU with this
one. The names are those of ``/proc/cpuinfo``; the levels those of the x86-64 psABI, as GCC's ``-march=x86-64-v3``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptrun.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection

_V1 = "fpu cx8 cmov mmx fxsr sse sse2 syscall"
_V2 = "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"
_V3 = "abm avx avx2 bmi1 bmi2 f16c fma movbe xsave"
_V4 = "avx512f avx512bw avx512cd avx512dq avx512vl"

LEVELS: dict[str, frozenset[str]] = {
    "x86-64": frozenset(_V1.split()),
    "x86-64-v2": frozenset(f"{_V1} {_V2}".split()),
    "x86-64-v3": frozenset(f"{_V1} {_V2} {_V3}".split()),
    "x86-64-v4": frozenset(f"{_V1} {_V2} {_V3} {_V4}".split()),
}
"""Name of a level -> every feature that it needs, lowest level first."""

_BEYOND = (
    "3dnow 3dnowext 3dnowprefetch adx aes amx_bf16 amx_complex amx_fp16 amx_int8 amx_tile avx512_4fmaps avx512_4vnniw "
    "avx512_bf16 avx512_bitalg avx512_fp16 avx512_vbmi2 avx512_vnni avx512_vp2intersect avx512_vpopcntdq avx512er "
    "avx512ifma avx512pf avx512vbmi avx_ifma avx_ne_convert avx_vnni avx_vnni_int16 avx_vnni_int8 clflush clflushopt "
    "clwb clzero cmpccxadd fma4 fsgsbase gfni hle lwp misalignsse mmxext movdir64b movdiri mpx mwaitx pclmulqdq rdpid "
    "rdrand rdseed rdtscp rtm serialize sha512 sha_ni sm3 sm4 sse4a tbm vaes vpclmulqdq waitpkg xgetbv1 xop xsavec "
    "xsaveopt"
)
_NOTICED = LEVELS["x86-64-v4"] | frozenset(_BEYOND.split())
"""Instructions that a program may find and use. The kernel's own features, and hints every CPU takes, are not here."""

_NEVER_CAPPED = frozenset(["clflush", "fsgsbase", "rdtscp", "xgetbv1", "xsave", "xsavec", "xsaveopt"])
"""Used below every level: libc's symbol resolver saves registers with ``xsavec`` if it was there at the start."""

_WITH_V3 = frozenset({"aes", "pclmulqdq", "rdrand"})
"""In no level, and in every CPU that has AVX2: left in use from x86-64-v3 on, since hashing and TLS live by them."""

AVX, OPMASK, ZMM_LOW, ZMM_HIGH = 2, 5, 6, 7
COMPONENTS = {AVX: "avx", OPMASK: "avx512f", ZMM_LOW: "avx512f", ZMM_HIGH: "avx512f"}
"""Bit of a component of the register state (XCR0) -> the feature that brings it."""


def parse_level(text: str) -> str:
    """Return the level's name: ``x86-64``, ``x86-64-v2`` … as GCC writes it, or ``v1`` … ``v4`` for short.

    Raises:
        UsageError: it is none.
    """
    name = text.strip().lower().replace("_", "-")
    name = f"x86-64-{name}" if name.startswith("v") else name
    name = "x86-64" if name == "x86-64-v1" else name
    if name not in LEVELS:
        raise UsageError(f"{text!r} is no x86-64 level", hint="choose " + ", ".join(LEVELS))
    return name


def level_of(features: Collection[str]) -> str:
    """Return the highest level that a CPU with these features has; empty if it has none."""
    return next((name for name, needed in reversed(LEVELS.items()) if needed <= set(features)), "")


def noticed(features: Collection[str], architecture: str) -> tuple[str, ...]:
    """Return those features that a program may have picked up, sorted. On other architectures: all of them."""
    found = set(features)
    return tuple(sorted(found & _NOTICED if architecture == "x86_64" else found))


def capped(level: str) -> frozenset[str]:
    """Return the features that a job started with ``--portable-cpu LEVEL`` was kept from using."""
    left = LEVELS[level] | _NEVER_CAPPED | (_WITH_V3 if LEVELS["x86-64-v3"] <= LEVELS[level] else frozenset())
    return _NOTICED - left


def missing(there: Collection[str], here: Collection[str], level: str = "") -> list[str]:
    """Return the features that a program started there may use and that are not here.

    Args:
        there: `noticed` features of the CPU it was checkpointed on.
        here: features of this CPU.
        level: what ``--portable-cpu`` said when it was started; empty if nothing.
    """
    excused = capped(level) if level in LEVELS else frozenset()
    return sorted(set(there) - set(here) - excused)
