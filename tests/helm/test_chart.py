"""The chart's manifests, rendered by a real helm: as expected, and as Kubernetes wants them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import chart

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = (chart.OLDEST, chart.NEWEST)
MATRIX = [
    pytest.param(path, version, id=f"{path.stem.removesuffix('-values')}-{version.rsplit('.', 1)[0]}")
    for path in chart.CI
    for version in VERSIONS
    if chart.since(path) <= tuple(int(part) for part in version.split(".")[:2])
]
S3 = chart.CHART / "ci" / "s3-values.yaml"
CAPABILITIES = [
    "SYS_ADMIN", "SYS_PTRACE", "SYS_TIME", "SETUID", "SETGID", "SETPCAP", "SYS_CHROOT", "DAC_OVERRIDE",
    "DAC_READ_SEARCH", "KILL",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("path", chart.CI, ids=lambda path: path.stem)
def test_helm_lint_finds_nothing(path: Path):
    words = ("--kube-version", chart.NEWEST, "-f", str(path))
    done = chart.helm("lint", "--strict", str(chart.CHART), *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout
    assert "[ERROR]" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("path", "version"), MATRIX)
def test_manifests_are_the_expected_ones_and_validate_strictly(path: Path, version: str):
    text = chart.rendered("-f", str(path), version=version)
    chart.validate(text, version)
    name = path.stem.removesuffix("-values")
    chart.golden(GOLDEN / f"{name}-{version.rsplit('.', 1)[0]}.yaml", text)


def test_chart_takes_no_cluster_older_than_the_oldest():
    done = chart.template("-f", str(S3), version="1.26.0")
    assert done.returncode != 0
    assert ">=1.27.0" in done.stderr


def test_job_container_keeps_the_restricted_profile_and_sees_nothing_of_ckptruns():
    spec = chart.pod_spec(chart.workload(chart.rendered("-f", str(S3))))
    (job,) = spec["containers"]
    assert job["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "runAsGroup": 1000,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert job["command"] == ["/ckptrun/bin/ckptrun-shim", "--", "python", "train.py"]
    assert "env" not in job
    assert job["volumeMounts"] == [
        {"name": "ckptrun", "mountPath": "/ckptrun", "readOnly": True},
        {"name": "ckptrun-job-tmp", "mountPath": "/tmp"},
    ]
    assert spec["automountServiceAccountToken"] is False
    assert spec["shareProcessNamespace"] is True


@pytest.mark.parametrize("mode", ["sidecar", "wrapper"])
def test_container_that_checkpoints_has_the_capabilities_it_needs_and_no_more(mode: str):
    spec = chart.pod_spec(chart.workload(chart.rendered("-f", str(S3), "--set", f"mode={mode}")))
    capable = spec["initContainers"][1] if mode == "sidecar" else spec["containers"][0]
    rights = capable["securityContext"]
    assert rights["capabilities"] == {"drop": ["ALL"], "add": CAPABILITIES}
    assert rights["seccompProfile"] == {"type": "Unconfined"}
    assert rights["appArmorProfile"] == {"type": "Unconfined"}
    assert "privileged" not in rights
    assert not {"hostPID", "hostNetwork", "hostIPC"} & set(spec)


@pytest.mark.slow
def test_sidecar_is_native_from_1_29_on_and_an_ordinary_container_before():
    def containers(version: str, *words: str) -> tuple[list[str], list[str]]:
        spec = chart.pod_spec(chart.workload(chart.rendered("-f", str(S3), *words, version=version)))
        return [c["name"] for c in spec["initContainers"]], [c["name"] for c in spec["containers"]]

    native = (["ckptrun-install", "ckptrun"], ["job"])
    ordinary = (["ckptrun-install"], ["job", "ckptrun"])
    assert containers("1.28.9") == ordinary
    assert containers("1.28.9", "--set", "sidecar.native=true") == native
    assert containers("1.29.0") == native
    assert containers("1.29.0", "--set", "sidecar.native=false") == ordinary


@pytest.mark.slow
def test_app_armor_is_a_field_from_1_30_on_and_an_annotation_before():
    def where(version: str) -> tuple[bool, bool]:
        document = chart.workload(chart.rendered("-f", str(S3), version=version))
        template = document["spec"]["template"]
        annotation = "container.apparmor.security.beta.kubernetes.io/ckptrun"
        rights = chart.pod_spec(document)["initContainers"][1]["securityContext"]
        return "appArmorProfile" in rights, annotation in template["metadata"]["annotations"]

    assert where("1.29.0") == (False, True)
    assert where("1.30.0") == (True, False)


@pytest.mark.slow
def test_limits_of_the_pod_are_set_from_1_34_on_or_by_value():
    gpu = str(chart.CHART / "ci" / "gpu-values.yaml")

    def has(version: str, *words: str) -> bool:
        return "resources" in chart.pod_spec(
            chart.workload(chart.rendered("-f", gpu, *words, version=version))
        )

    assert not has("1.33.0")
    assert has("1.33.0", "--set", "podResources.enabled=true")
    assert has("1.34.0")
    assert not has("1.34.0", "--set", "podResources.enabled=false")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "ckptrun", "pod"),
    [
        ([], "30s", 45),
        (["checkpoint.grace=1m30s"], "1m30s", 105),
        (["checkpoint.grace=20"], "20", 35),
        (["checkpoint.grace=1500ms"], "1500ms", 17),
        (["spot.provider=gke"], "10s", 15),
        (["spot.provider=gke", "checkpoint.grace=60s"], "60s", 75),
        (["spot.provider=aks"], "20s", 35),
        (["checkpoint.grace=100s", "terminationGracePeriodSeconds=120"], "100s", 120),
    ],
)
def test_pods_grace_is_longer_than_ckptruns(words: list[str], ckptrun: str, pod: int):
    sets = [part for word in words for part in ("--set", word)]
    spec = chart.pod_spec(chart.workload(chart.rendered("-f", str(S3), *sets)))
    env = {entry["name"]: entry.get("value") for entry in spec["initContainers"][1]["env"]}
    assert env["CKPTRUN_GRACE"] == ckptrun
    assert spec["terminationGracePeriodSeconds"] == pod


def test_failures_another_pod_can_cure_are_told_from_those_it_cannot():
    spec = chart.workload(chart.rendered("-f", str(S3)))["spec"]
    stopped, disrupted, hopeless = spec["podFailurePolicy"]["rules"]
    codes = {"containerName": "job", "operator": "In"}
    assert stopped == {"action": "Ignore", "onExitCodes": {**codes, "values": [75]}}
    assert disrupted["action"] == "Ignore"
    assert [condition["type"] for condition in disrupted["onPodConditions"]] == ["DisruptionTarget"]
    assert hopeless == {"action": "FailJob", "onExitCodes": {**codes, "values": [64, 77, 78, 126, 127]}}
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


@pytest.mark.parametrize(("version", "policy"), [("1.28.9", None), ("1.29.0", "Failed")])
def test_next_pod_begins_when_the_last_one_has_ended(version: str, policy: str | None):
    sets = ("--set", "restartPolicy=OnFailure,podFailurePolicy.enabled=false")
    spec = chart.workload(chart.rendered("-f", str(S3), *sets, version=version))["spec"]
    assert spec.get("podReplacementPolicy") == policy


def test_pods_of_a_silent_node_are_given_up_as_soon_as_the_values_say():
    def tolerations(*words: str) -> list[dict[str, Any]]:
        spec = chart.pod_spec(chart.workload(chart.rendered("-f", str(S3), *words)))
        found: list[dict[str, Any]] = spec.get("tolerations", [])
        return found

    silent = [
        {
            "key": f"node.kubernetes.io/{how}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": 60,
        }
        for how in ("not-ready", "unreachable")
    ]
    assert tolerations() == silent
    assert tolerations("--set", "lostNodeSeconds=null") == []
    assert tolerations("--set", "kind=Pod") == []
    own = {**silent[1], "tolerationSeconds": 5}
    assert tolerations("--set-json", f"tolerations=[{json.dumps(own)}]") == [own, silent[0]]
    assert tolerations("--set", "tolerations[0].operator=Exists") == [{"operator": "Exists"}]


def test_roles_hold_the_rights_that_are_made_use_of():
    from ckptrun.kube import rbac  # noqa: PLC0415 - the other tests need none of it

    text = chart.rendered("-f", str(S3), "--set", "rbac.nodes=true")
    assert chart.of_kind(text, "Role")["rules"] == rbac.ROLE_RULES
    assert chart.of_kind(text, "ClusterRole")["rules"] == rbac.CLUSTER_ROLE_RULES
    assert "ClusterRole" not in chart.rendered("-f", str(S3))


def test_without_the_api_there_is_neither_token_nor_role():
    text = chart.rendered("-f", str(S3), "--set", "api.enabled=false")
    assert "serviceAccountToken" not in text
    assert not {"Role", "RoleBinding"} & {document["kind"] for document in chart.documents(text)}


def test_names_that_look_like_numbers_stay_names():
    words = (
        "template",
        "123",
        str(chart.CHART),
        "-n",
        "456",
        "-f",
        str(S3),
        "--set-string",
        "job.container=7",
    )
    done = chart.helm(*words, "--set-string", "serviceAccount.name=89", "--kube-version", chart.NEWEST)
    assert done.returncode == 0, done.stderr
    chart.validate(done.stdout, chart.NEWEST)
    assert chart.of_kind(done.stdout, "Job")["metadata"]["name"] == "123"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            [],
            [
                "kubectl logs -n ml",
                "-c job -f",
                "ckptrun.dev/checkpoint-now",
                "kubectl describe job train -n ml",
            ],
        ),
        (
            [],
            ["pod-security.kubernetes.io/enforce=privileged", "stays within `restricted`", "helm test train"],
        ),
        (
            ["store.credentials.sessionToken=T", "key.item=k"],
            [
                "the Secrets bucket (with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and T) and ckptrun-key (with k)",
                "references non-existent secret key",
            ],
        ),
        (["kind=Pod"], ["Nothing runs a bare Pod again", "kubectl describe pod train"]),
        (["kind=CronJob", "cron.schedule=@daily"], ["kubectl describe cronjob train"]),
        (["sidecar.native=false"], ["the sidecar is an ordinary container here"]),
        (["spot.provider=aks", "checkpoint.grace=28s"], ["a spot node of aks gives pods 30 s:"]),
        (
            ["spot.provider=gke", "checkpoint.grace=15s"],
            ["a spot node of gke gives pods 15 s unless its node"],
        ),
        (
            ["restartPolicy=OnFailure", "podFailurePolicy.enabled=false"],
            ["after 6 of them the Job has failed. Set backoffLimit=1000"],
        ),
        (["podResources.limits.memory=1Gi", "podResources.enabled=false"], ["podResources are left out"]),
        (["key.secret=", "key.noEncryption=true"], ["whoever can read the bucket can read the job's memory"]),
    ],
)
def test_notes_say_what_to_do_next(words: list[str], said: list[str]):
    sets = [part for word in words for part in ("--set", word)]
    text = chart.notes("-f", str(S3), *sets)
    for sentence in said:
        assert sentence in text, text


def test_notes_are_silent_where_nothing_is_wrong():
    sets = ("--set", "spot.provider=gke")
    assert "NOTE" not in chart.notes("-f", str(S3), *sets)


def test_settings_the_chart_gives_are_settings_ckptrun_takes(tmp_path: Path):
    from ckptrun.settings import resolve_run  # noqa: PLC0415 - the other tests need none of it

    full = str(chart.CHART / "ci" / "full-values.yaml")
    spec = chart.pod_spec(chart.workload(chart.rendered("-f", full)))
    (sidecar,) = [c for c in spec["containers"] if c["name"] == "ckptrun"]
    environ = {entry["name"]: entry["value"] for entry in sidecar["env"] if "value" in entry}
    key = tmp_path / "key"
    key.write_bytes(bytes(32))
    environ |= {"CKPTRUN_KEY_FILE": str(key), "CKPTRUN_PRESERVE": str(tmp_path)}
    settings = resolve_run(["python"], {}, environ, tmp_path, tmp_path)
    assert settings.name == "experiment-17"
    assert (settings.interval, settings.keep_last, settings.grace) == (300.0, 5, 90.0)
    assert (settings.restart, settings.max_restarts, settings.max_freeze) == ("always", 20, 120.0)
    assert (settings.staging, settings.journal_limit) == (2 << 30, 4 << 30)
    assert settings.resume
    assert settings.require_store
    assert settings.require_ledger
    assert settings.allow_io_uring
    assert settings.verbose
    assert settings.labels == {"team": "vision", "ticket": "17"}
    assert settings.hooks.specs == (
        "/etc/ckptrun/hooks/tell.sh?phases=post-commit",
        "webhook?url=$SLACK_URL&format=slack",
    )
    known = {"CKPTRUN_LINEAGE_KEY", "CKPTRUN_JOB_CONTAINER"}
    from ckptrun.settings.sources import OPTIONS, variable  # noqa: PLC0415 - likewise

    said = {name for name in environ if name.startswith("CKPTRUN_")} - known
    assert said <= {variable(option) for option in OPTIONS}


def test_chart_and_package_have_one_version():
    import ckptrun  # noqa: PLC0415 - likewise

    about = yaml.safe_load((chart.CHART / "Chart.yaml").read_text("utf-8"))
    assert about["appVersion"] == ckptrun.__version__
