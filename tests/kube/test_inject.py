"""``ckptrun kube inject``: what it adds, that a second time adds nothing, and what it refuses by field."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from support import chart

from ckptrun.app.injecting import injected, remarked
from ckptrun.errors import ConfigurationError, UsageError
from ckptrun.kube import manifests
from ckptrun.kube.inject import inject
from ckptrun.kube.podshape import Mode, Shape

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS = ("--image", "ckptrun:1", "--store", "s3://bucket/runs", "--key-secret", "ckptrun-key")
SHAPE = Shape("ckptrun:1", "s3://bucket/runs", key="ckptrun-key")
WRAPPER = Shape("", "s3://bucket/runs", key="ckptrun-key", mode=Mode.WRAPPER)

JOB = """\
apiVersion: batch/v1
kind: Job
metadata: {name: train}
spec:
  template:
    spec:
      restartPolicy: Never
      containers:
        - name: main
          image: training:1
          command: [python, train.py]
          securityContext: {runAsUser: 1000, runAsGroup: 2000}
"""


def job(**changes: Any) -> dict[str, Any]:
    """Return the Job above; ``changes`` are of its pod's specification."""
    document: dict[str, Any] = yaml.safe_load(JOB)
    document["spec"]["template"]["spec"] |= changes
    return document


def cli(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "ckptrun", "kube", "inject", *words]
    return subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False, timeout=60)


def spec_of(text: str) -> dict[str, Any]:
    return chart.pod_spec(chart.workload(text))


def test_job_gets_shim_sidecar_and_volume():
    (document,) = inject([job()], SHAPE)
    spec = chart.pod_spec(document)
    assert [c["name"] for c in spec["initContainers"]] == ["ckptrun-install", "ckptrun"]
    (main,) = spec["containers"]
    assert main["command"] == ["/ckptrun/bin/ckptrun-shim", "--", "python", "train.py"]
    assert main["volumeMounts"] == [{"name": "ckptrun", "mountPath": "/ckptrun", "readOnly": True}]
    assert main["securityContext"] == {"runAsUser": 1000, "runAsGroup": 2000}
    assert spec["shareProcessNamespace"] is True
    assert spec["terminationGracePeriodSeconds"] == 45
    assert document["spec"]["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [75]


def test_what_is_given_stays_as_it_is():
    before = job()
    inject([before], SHAPE)
    assert before == job()


@pytest.mark.parametrize("shape", [SHAPE, WRAPPER], ids=["sidecar", "wrapper"])
def test_second_time_gives_the_same(shape: Shape):
    own = {
        "initContainers": [{"name": "fetch", "image": "x"}],
        "volumes": [{"name": "data", "emptyDir": {}}],
        "terminationGracePeriodSeconds": 100,
    }
    for version in ((1, 27), (1, 29), (1, 37)):
        at = Shape(**{field: getattr(shape, field) for field in Shape.__slots__} | {"version": version})
        once = manifests.dump(inject([job(**own)], at))
        twice = manifests.dump(inject(manifests.load(once, "it"), at))
        assert once == twice
        assert chart.pod_spec(manifests.load(once, "it")[0])["initContainers"][0]["name"] == "fetch"


def test_second_time_with_other_options_takes_the_new_ones():
    once = inject([job()], SHAPE)
    (document,) = inject(
        once, Shape("ckptrun:2", "s3://bucket/other", (("CKPTRUN_INTERVAL", "5m"),), key="k")
    )
    (fresh,) = inject(
        [job()], Shape("ckptrun:2", "s3://bucket/other", (("CKPTRUN_INTERVAL", "5m"),), key="k")
    )
    assert document == fresh


def test_wrapper_drops_to_the_user_of_the_manifest():
    (main,) = chart.pod_spec(inject([job()], WRAPPER)[0])["containers"]
    assert main["command"] == ["ckptrun", "run", "--", "python", "train.py"]
    assert {"name": "CKPTRUN_USER", "value": "1000:2000"} in main["env"]
    assert main["securityContext"]["runAsUser"] == 0


def test_cron_job_pod_and_list_are_found():
    cron = {
        "kind": "CronJob",
        "metadata": {"name": "n"},
        "spec": {"jobTemplate": {"spec": job()["spec"]}},
    }
    pod = {"kind": "Pod", "metadata": {"name": "p"}, "spec": chart.pod_spec(job())}
    done = inject([{"kind": "List", "items": [cron, pod]}, {"kind": "Secret"}], SHAPE)
    for document in done[0]["items"]:
        assert chart.pod_spec(document)["shareProcessNamespace"] is True
    assert done[1] == {"kind": "Secret"}
    assert "podFailurePolicy" in done[0]["items"][0]["spec"]["jobTemplate"]["spec"]


def test_own_failure_policy_and_restart_policy_are_left_alone():
    document = job(restartPolicy="OnFailure")
    assert "podFailurePolicy" not in inject([document], SHAPE)[0]["spec"]
    document = job()
    document["spec"]["podFailurePolicy"] = {"rules": []}
    assert inject([document], SHAPE)[0]["spec"]["podFailurePolicy"] == {"rules": []}


def test_next_pod_begins_when_the_last_one_has_ended():
    for document in (job(), job(restartPolicy="OnFailure")):
        assert inject([document], SHAPE)[0]["spec"]["podReplacementPolicy"] == "Failed"
    old = Shape("ckptrun:1", "s3://bucket/runs", key="k", version=(1, 28))
    assert "podReplacementPolicy" not in inject([job()], old)[0]["spec"]
    document = job()
    document["spec"]["podReplacementPolicy"] = "TerminatingOrFailed"
    with pytest.raises(ConfigurationError, match="a second pod of the lineage would begin"):
        inject([document], SHAPE)


def _two() -> list[dict[str, Any]]:
    return [{"name": "a", "image": "x", "command": ["a"]}, {"name": "b", "image": "x", "command": ["b"]}]


MAIN = {"name": "main", "image": "x", "command": ["a"]}
POD = r"Job train: spec\.template\.spec\."
REFUSED = [
    (
        {"containers": [{"name": "main", "image": "x"}]},
        POD + r"containers\[0\]\.command is missing in container main",
    ),
    ({"containers": _two()}, POD + r"containers has 2: a, b; name the job's with --container"),
    ({"containers": []}, POD + "containers is empty"),
    ({"hostPID": True}, POD + "hostPID is true"),
    ({"hostUsers": False}, POD + "hostUsers is false"),
    ({"shareProcessNamespace": False}, POD + "shareProcessNamespace is false"),
    ({"os": {"name": "windows"}}, POD + "os asks for Windows"),
    ({"nodeSelector": {"kubernetes.io/os": "windows"}}, POD + "nodeSelector asks for Windows"),
    ({"terminationGracePeriodSeconds": 30}, POD + "terminationGracePeriodSeconds is 30, no longer than"),
    ({"volumes": [{"name": "ckptrun-key", "emptyDir": {}}]}, POD + "volumes has ckptrun-key"),
    (
        {"containers": [{**MAIN, "volumeMounts": [{"name": "x", "mountPath": "/ckptrun/bin"}]}]},
        POD + r"containers\[0\]\.volumeMounts has /ckptrun/bin",
    ),
    (
        {"containers": [{**MAIN, "env": [{"name": "CKPTRUN_STORE", "value": "x"}]}]},
        POD + "containers sets CKPTRUN_STORE",
    ),
]


@pytest.mark.parametrize(("changes", "sentence"), REFUSED)
def test_pods_it_cannot_serve_are_refused_by_field(changes: dict[str, Any], sentence: str):
    with pytest.raises(ConfigurationError, match=sentence):
        inject([job(**changes)], SHAPE)


def test_wrapper_refuses_what_would_show_the_job_the_key_or_run_it_as_root():
    with pytest.raises(ConfigurationError, match="fsGroup would let the job's group read the key"):
        inject([job(securityContext={"fsGroup": 1})], WRAPPER)
    with pytest.raises(ConfigurationError, match="runAsUser is missing or 0"):
        inject([job(containers=[MAIN])], WRAPPER)


def test_modes_are_not_mixed():
    with pytest.raises(ConfigurationError, match="has ckptrun in mode sidecar already"):
        inject(inject([job()], SHAPE), WRAPPER)
    with pytest.raises(ConfigurationError, match="has ckptrun in mode wrapper already"):
        inject(inject([job()], WRAPPER), SHAPE)


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet"])
def test_pods_that_never_end_are_refused(kind: str):
    with pytest.raises(ConfigurationError, match=f"{kind} train: ckptrun needs pods that end"):
        inject([{**job(), "kind": kind}], SHAPE)


def test_other_kinds_alone_are_no_success():
    with pytest.raises(ConfigurationError, match="no Job, CronJob or Pod"):
        inject([{"kind": "ConfigMap"}], SHAPE)
    with pytest.raises(ConfigurationError, match="has no kind"):
        inject([{"a": 1}], SHAPE)


def test_pods_that_would_share_a_lineage_are_refused():
    document = job()
    document["spec"]["parallelism"] = 2
    with pytest.raises(
        ConfigurationError, match="its pods would share one lineage; set completionMode: Indexed"
    ):
        inject([document], SHAPE)
    document["spec"]["completionMode"] = "Indexed"
    inject([document], SHAPE)
    named = Shape("x", "s3://bucket/runs", (("CKPTRUN_NAME", "a"),), key="k")
    with pytest.raises(ConfigurationError, match="the same for every index"):
        inject([document], named)


def test_container_of_choice_is_wrapped():
    (document,) = inject([job(containers=_two())], SHAPE, "b")
    first, second = chart.pod_spec(document)["containers"]
    assert first["command"] == ["a"]
    assert second["command"][-1] == "b"
    with pytest.raises(ConfigurationError, match="containers has no c; choose a, b"):
        inject([job(containers=_two())], SHAPE, "c")


def test_strings_stay_strings_for_kubernetes_yaml():
    values = ["y", "1e3", "0o17", "2020-01-01", "on", "1:30", "0x1F", " a", "~", "a\nb\n"]
    text = f"kind: X\nwhen: 2020-01-01\nvalues: {json.dumps(values)}\n"
    written = manifests.dump(manifests.load(text, "it"))
    assert manifests.load(written, "it") == manifests.load(text, "it")
    for value in ("y", "1e3", "0o17", "1:30"):
        assert f'"{value}"' in written
    assert yaml.safe_load(written)["when"] == "2020-01-01"


def test_yaml_that_is_none_is_refused():
    with pytest.raises(ConfigurationError, match=r"job\.yaml is no YAML: .*line 1"):
        manifests.load("a: [", "job.yaml")
    with pytest.raises(ConfigurationError, match="a is there twice"):
        manifests.load("a: 1\na: 2\n", "job.yaml")


NAMESPACE = """\
apiVersion: v1
kind: Namespace
metadata: {name: ml, labels: {pod-security.kubernetes.io/enforce: %s}}
---
"""


@pytest.mark.parametrize(
    ("level", "refused"), [("restricted", True), ("baseline", True), ("privileged", False)]
)
def test_a_namespace_beside_the_job_that_would_not_take_its_pod_is_refused_by_its_label(
    level: str, refused: bool
):
    shape = (SHAPE, "")
    there = JOB.replace("kind: Job\nmetadata: {", "kind: Job\nmetadata: {namespace: ml, ")
    if not refused:
        assert (
            "kubectl label namespace ml --overwrite"
            in remarked(injected(NAMESPACE % level + there, "it", *shape))[-1]
        )
        return
    with pytest.raises(
        ConfigurationError, match=f"Namespace ml: .*enforce is {level}, which takes no"
    ) as caught:
        injected(NAMESPACE % level + there, "it", *shape)
    assert "set it to privileged" in caught.value.hint
    injected(NAMESPACE % level + JOB, "it", *shape)  # the Job is not said to be in it


def test_command_line_reads_and_writes_files(tmp_path: Path):
    source, target = tmp_path / "job.yaml", tmp_path / "out.yaml"
    source.write_text("kind: ConfigMap\n---\n" + JOB)
    done = cli(
        "-f", str(source), "-o", str(target), *OPTIONS, "--interval", "5m", "--label", "a=b", "--label", "c=d"
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert "kubectl label namespace NAMESPACE --overwrite pod-security" in done.stderr
    text = target.read_text()
    env = {entry["name"]: entry.get("value") for entry in spec_of(text)["initContainers"][1]["env"]}
    assert env["CKPTRUN_INTERVAL"] == "5m"
    assert env["CKPTRUN_LABEL"] == "a=b,c=d"
    again = cli("-f", "-", *OPTIONS, "--interval", "5m", "--label", "a=b", "--label", "c=d", stdin=text)
    assert again.stdout == text


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("--image", "x"), 64, "--store is missing"),
        (("--store", "s3://bucket/x", "--key-secret", "k"), 64, "--image is missing"),
        (("--image", "x", "--store", "s3://bucket/x"), 78, "pass --key-secret SECRET"),
        (("--image", "x", "--store", "file:///s"), 78, "pass --store-claim CLAIM"),
        ((*OPTIONS, "--interval", "often"), 64, "'often' is no interval"),
        ((*OPTIONS, "--grace", "0"), 64, "longer than zero"),
        ((*OPTIONS, "--preserve", "data"), 64, "--preserve data is not absolute"),
        ((*OPTIONS, "--preserve", "/a:b"), 64, "a ':' parts values"),
        ((*OPTIONS, "--kubernetes", "1.26"), 64, "no version from 1.27 on"),
        ((*OPTIONS, "--no-encryption"), 78, "--key-secret and --no-encryption contradict"),
    ],
)
@pytest.mark.slow
def test_wrong_options_are_refused(words: tuple[str, ...], code: int, sentence: str):
    done = cli("-f", "-", *words, stdin=JOB)
    assert (done.returncode, done.stdout) == (code, "")
    assert sentence in done.stderr


def test_file_that_is_not_there_is_named():
    done = cli("-f", "/nowhere/job.yaml", *OPTIONS)
    assert done.returncode == UsageError.exit_code
    assert "/nowhere/job.yaml cannot be read" in done.stderr
