"""The plain YAML of one example: the chart's own output, in a shape that kustomize takes."""

from __future__ import annotations

import subprocess

import pytest
from support import chart

S3 = chart.CHART / "ci" / "s3-values.yaml"


def test_plain_manifests_are_what_the_chart_renders():
    words = ("template", "train", str(chart.CHART), "-f", str(S3), "-n", "default", "--no-hooks")
    done = chart.helm(*words, "--kube-version", chart.NEWEST)
    assert done.returncode == 0, done.stderr
    note = "# What the chart renders for helm/ckptrun/ci/s3-values.yaml, by 'make chart'.\n"
    chart.golden(chart.KUSTOMIZE / "train.yaml", note + done.stdout)


@pytest.mark.slow
def test_kustomize_builds_it_with_the_users_images():
    done = subprocess.run(
        [chart.program("kubectl"), "kustomize", str(chart.KUSTOMIZE)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    chart.validate(done.stdout, chart.NEWEST)
    spec = chart.pod_spec(chart.workload(done.stdout))
    images = {container["image"] for container in [*spec["initContainers"], *spec["containers"]]}
    assert images == {"registry.example/ckptrun:0.1.0.dev0", "registry.example/training:1"}
    assert spec["containers"][0]["command"] == ["/ckptrun/bin/ckptrun-shim", "--", "python", "train.py"]
