"""What ``kube inject`` says of Jobs that would count being stopped and gone on with as failures."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import yaml

from ckptrun.kube.inject import inject
from ckptrun.kube.podshape import Shape
from ckptrun.kube.remarks import remarks

SHAPE = Shape("ckptrun:1", "s3://bucket/runs", key="ckptrun-key")


def job(*rules: dict[str, Any], policy: str = "Never", kind: str = "Job") -> dict[str, Any]:
    """Return a Job with ckptrun in it, with a podFailurePolicy of its own if there are ``rules``."""
    container = {"name": "main", "image": "x", "command": ["a"]}
    spec: dict[str, Any] = {"template": {"spec": {"restartPolicy": policy, "containers": [container]}}}
    if rules:
        spec["podFailurePolicy"] = {"rules": list(rules)}
    if kind == "CronJob":
        spec = {"jobTemplate": {"spec": spec}}
    (document,) = inject([{"kind": kind, "metadata": {"name": "train"}, "spec": spec}], SHAPE)
    found: dict[str, Any] = document
    return found


def codes(action: str, *values: int, operator: str = "In", **more: str) -> dict[str, Any]:
    return {"action": action, "onExitCodes": {"operator": operator, "values": list(values), **more}}


@pytest.mark.parametrize(
    "rules",
    [
        (),
        (codes("Ignore", 75),),
        (codes("Ignore", 75, containerName="main"), codes("FailJob", 0, operator="NotIn")),
        (codes("FailJob", 75, containerName="other"), codes("Ignore", 1, operator="NotIn")),
    ],
)
def test_policy_that_ignores_being_stopped_needs_no_word(rules: tuple[dict[str, Any], ...]):
    assert remarks([job(*rules)]) == []


@pytest.mark.parametrize(
    "rules",
    [
        (codes("FailJob", 42),),
        (codes("FailJob", 0, operator="NotIn"), codes("Ignore", 75)),
        (codes("Ignore", 75, containerName="other"),),
        ({"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},),
    ],
)
def test_policy_that_counts_being_stopped_is_named(rules: tuple[dict[str, Any], ...]):
    (remark,) = remarks([{"kind": "List", "items": [job(*rules, kind="CronJob")]}])
    assert remark.startswith("CronJob train: its own podFailurePolicy does not ignore exit code 75")


def test_job_that_tells_no_codes_apart_is_named():
    (remark,) = remarks([job(policy="OnFailure"), {"kind": "Pod"}])
    assert remark.startswith("Job train: with restartPolicy OnFailure Kubernetes tells no exit codes apart")


@pytest.mark.slow
def test_command_says_it_beside_its_result():
    plain = job(codes("FailJob", 42))
    argv = [sys.executable, "-m", "ckptrun", "kube", "inject", "-f", "-", "--image", "x"]
    options = ["--store", "s3://bucket/runs", "--key-secret", "k"]
    done = subprocess.run(
        [*argv, *options],
        input=yaml.safe_dump(plain),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0
    assert yaml.safe_load(done.stdout)["spec"]["podFailurePolicy"] == plain["spec"]["podFailurePolicy"]
    assert "ckptrun: Job train: its own podFailurePolicy does not ignore exit code 75" in done.stderr
