"""The node affinity that follows from a checkpoint's facts."""

from __future__ import annotations

from ckptrun.kube.affinity import compat_annotations, node_affinity


def expressions(affinity: dict[str, dict[str, dict[str, list[dict[str, list[dict[str, object]]]]]]]):
    return affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]


def test_architecture_features_and_gpu_become_labels_of_nodes():
    (term,) = expressions(node_affinity("x86_64", {"avx2", "sse2", "avx512f"}, gpu=True))
    assert [(e["key"], e["values"]) for e in term["matchExpressions"]] == [
        ("kubernetes.io/arch", ["amd64"]),
        ("feature.node.kubernetes.io/cpu-cpuid.AVX2", ["true"]),
        ("feature.node.kubernetes.io/cpu-cpuid.AVX512F", ["true"]),
        ("feature.node.kubernetes.io/pci-10de.present", ["true"]),
    ]


def test_nothing_known_asks_for_nothing():
    assert node_affinity("", (), gpu=False) == {}


def test_annotations_say_what_is_known():
    assert compat_annotations({"kernel": "6.1", "gpu": ""}) == {"ckptrun.dev/compat-kernel": "6.1"}
