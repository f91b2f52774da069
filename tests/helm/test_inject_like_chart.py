"""``ckptrun kube inject`` makes the pod that the chart renders, from a manifest that has the rest of it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from support import chart

from ckptrun.app.injecting import injected, shape

pytestmark = pytest.mark.slow

CONTAINER = """\
name: job
image: registry.example/training:1
command: [python, train.py]
"""
RESTRICTED = """\
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
"""
CHART_ONLY = ("serviceAccountName", "automountServiceAccountToken", "enableServiceLinks", "tolerations")
"""What the chart says of a pod beside ckptrun; `inject` leaves it as it is."""

OPTIONS: dict[str, Any] = {
    "image": "ckptrun:0.1.0.dev0",
    "mode": "sidecar",
    "key_secret": "ckptrun-key",
    "key_item": "key",
    "credentials_secret": "bucket",
    "region": "",
    "store_claim": "",
    "lineage_key": "name",
    "api": True,
}
CASES = [
    pytest.param({}, {}, {}, id="least"),
    pytest.param(
        {"lineage.key": "uid", "api.enabled": "false"}, {"lineage_key": "uid", "api": False}, {}, id="uid"
    ),
    pytest.param(
        {
            "checkpoint.interval": "5m",
            "checkpoint.grace": "90s",
            "checkpoint.preserve": "{/data,/more}",
            "checkpoint.tcp": "close",
            "checkpoint.requireStore": "true",
            "store.region": "eu-west-1",
            "store.endpoint": "http://minio:9000",
        },
        {"region": "eu-west-1"},
        {
            "interval": "5m",
            "grace": "90s",
            "preserve": ("/data", "/more"),
            "tcp": "close",
            "require-store": True,
            "s3-endpoint-url": "http://minio:9000",
        },
        id="settings",
    ),
    pytest.param({"mode": "wrapper"}, {"mode": "wrapper"}, {}, id="wrapper"),
    pytest.param(
        {
            "store.url": "file:///store",
            "store.credentials.secret": "",
            "store.volume.persistentVolumeClaim.claimName": "checkpoints",
        },
        {"credentials_secret": "", "store_claim": "checkpoints"},
        {"store": "file:///store"},
        id="volume",
    ),
]


@pytest.mark.parametrize("version", [chart.OLDEST, "1.29.0", chart.NEWEST])
@pytest.mark.parametrize(("values", "about", "given"), CASES)
def test_pod_is_the_charts(
    values: dict[str, str], about: dict[str, Any], given: dict[str, Any], version: str
):
    sets = [word for name, value in values.items() for word in ("--set", f"{name}={value}")]
    text = chart.rendered("-f", str(chart.CHART / "ci" / "s3-values.yaml"), *sets, version=version)
    wanted = chart.workload(text)
    options = {"store": "s3://bucket/runs", **given}
    options.setdefault("preserve", ())
    wrapper = about.get("mode") == "wrapper"
    made = injected(
        _plain(wrapper=wrapper), "it", shape(options, **{**OPTIONS, **about, "version": version}), ""
    )
    chart.validate(made, version)
    (document,) = chart.documents(made)
    assert _comparable(document) == _comparable(wanted)
    for field in ("podFailurePolicy", "podReplacementPolicy"):
        assert document["spec"].get(field) == wanted["spec"].get(field)
    assert _annotations(document) == _annotations(wanted)


def _plain(*, wrapper: bool) -> str:
    """Return the job alone, as a user of the chart's values would have written it."""
    container = yaml.safe_load(CONTAINER)
    rights = yaml.safe_load(RESTRICTED)
    spec: dict[str, Any] = {"restartPolicy": "Never", "containers": [container]}
    if wrapper:
        container["securityContext"] = {name: rights[name] for name in ("runAsUser", "runAsGroup")}
    else:
        container["securityContext"] = rights
        container["volumeMounts"] = [{"name": "tmp", "mountPath": "/tmp"}]
        spec["volumes"] = [{"name": "tmp", "emptyDir": {}}]
    document = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "train"},
        "spec": {"template": {"spec": spec}},
    }
    return yaml.safe_dump(document)


def _comparable(document: dict[str, Any]) -> dict[str, Any]:
    """Return the pod without the order of lists that have names, and with the chart's own name for the job's /tmp."""
    spec = {name: value for name, value in chart.pod_spec(document).items() if name not in CHART_ONLY}
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        for field in ("env", "volumeMounts"):
            items = container.get(field, [])
            container[field] = sorted(
                ({**item, "name": "ckptrun-job-tmp"} if item["name"] == "tmp" else item for item in items),
                key=lambda item: (item["name"], item.get("mountPath", "")),
            )
    volumes = (
        {**item, "name": "ckptrun-job-tmp"} if item["name"] == "tmp" else item for item in spec["volumes"]
    )
    spec["volumes"] = sorted(volumes, key=lambda item: item["name"])
    return spec


def _annotations(document: dict[str, Any]) -> dict[str, str]:
    metadata = document["spec"]["template"].get("metadata", {})
    return {
        name: value
        for name, value in metadata.get("annotations", {}).items()
        if name.startswith("container.")
    }
