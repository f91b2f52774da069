"""Node affinity from what a checkpoint depends on: which nodes can restore it. Pure.

Kubernetes itself labels nodes with the architecture; CPU features and GPUs are labelled by Node Feature Discovery
(``feature.node.kubernetes.io``), which most clusters with GPUs run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""``uname -m`` -> what Kubernetes calls it."""

_CPUID = "feature.node.kubernetes.io/cpu-cpuid."
_GPU = "feature.node.kubernetes.io/pci-10de.present"

_LABELLED = """
avx AVX avx2 AVX2 fma FMA3 f16c F16C aes AESNI vaes VAES sha_ni SHA gfni GFNI vpclmulqdq VPCLMULQDQ avx_vnni AVXVNNI
avx512f AVX512F avx512bw AVX512BW avx512cd AVX512CD avx512dq AVX512DQ avx512vl AVX512VL avx512vbmi AVX512VBMI
avx512_vbmi2 AVX512VBMI2 avx512_vnni AVX512VNNI avx512_bf16 AVX512BF16 avx512_fp16 AVX512FP16 avx512ifma AVX512IFMA
avx512_bitalg AVX512BITALG avx512_vpopcntdq AVX512VPOPCNTDQ avx512_vp2intersect AVX512VP2INTERSECT amx_tile AMXTILE
amx_int8 AMXINT8 amx_bf16 AMXBF16 amx_fp16 AMXFP16 movdiri MOVDIRI movdir64b MOVDIR64B adx ADX rtm RTM hle HLE xop XOP
fma4 FMA4 sse4a SSE4A
"""
_WORDS = _LABELLED.split()
_NAMES = dict(zip(_WORDS[::2], _WORDS[1::2], strict=True))
"""The kernel's name of a CPU feature -> Node Feature Discovery's, where it labels nodes with it."""


def node_affinity(architecture: str, features: Collection[str], *, gpu: bool) -> dict[str, Any]:
    """Return the ``nodeAffinity`` of nodes that can restore a checkpoint.

    Args:
        architecture: as ``uname -m``; empty if not known.
        features: CPU features that the job may use, by the kernel's names; those without a label are passed over.
        gpu: whether the job uses one of NVIDIA's.
    """
    wanted = []
    if architecture:
        name = ARCHITECTURES.get(architecture, architecture)
        wanted.append({"key": "kubernetes.io/arch", "operator": "In", "values": [name]})
    labels = sorted(_CPUID + _NAMES[feature] for feature in features if feature in _NAMES)
    wanted += [{"key": label, "operator": "In", "values": ["true"]} for label in labels]
    if gpu:
        wanted.append({"key": _GPU, "operator": "In", "values": ["true"]})
    if not wanted:
        return {}
    terms = {"nodeSelectorTerms": [{"matchExpressions": wanted}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


def compat_annotations(facts: Mapping[str, str]) -> dict[str, str]:
    """Return annotations ``ckptrun.dev/compat-…`` of what a pod's checkpoints will depend on; empty ones left out."""
    return {f"ckptrun.dev/compat-{name}": value for name, value in facts.items() if value}
