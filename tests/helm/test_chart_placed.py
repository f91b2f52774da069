"""Where the chart's pods run and whom they reach: nodes, queues, networks, the identities of clouds."""

from __future__ import annotations

from typing import Any

import pytest
from support import chart

pytestmark = pytest.mark.slow

S3 = str(chart.CHART / "ci" / "s3-values.yaml")
POD = str(chart.CHART / "ci" / "pod-values.yaml")


def rendered(base: str, *words: str) -> str:
    """Return what the chart renders with values set, held to the schemas of the newest Kubernetes."""
    sets = [part for word in words for part in ("--set", word)]
    text = chart.rendered("-f", base, *sets)
    chart.validate(text, chart.NEWEST)
    return text


def egress(*words: str) -> set[tuple[int, str]]:
    """Return the ports that the NetworkPolicy opens, each with an address or ``any``; without those for names."""
    text = rendered(S3, "networkPolicy.enabled=true", "api.enabled=false", *words)
    found = set()
    for rule in chart.of_kind(text, "NetworkPolicy")["spec"]["egress"]:
        peers = [peer["ipBlock"]["cidr"] for peer in rule.get("to", [])] or ["any"]
        found |= {(port["port"], peer) for port in rule["ports"] for peer in peers if port["port"] != 53}
    return found


BUCKET = {(9000, "any")}
STORE = "store.endpoint=http://minio:9000"
NO_SECRET = "store.credentials.secret="
IRSA = r"serviceAccount.annotations.eks\.amazonaws\.com/role-arn=arn:aws:iam::1:role/a"
AGENT = {(80, "169.254.170.23/32"), (80, "fd00:ec2::23/128")}
NODE = {(80, "169.254.169.254/32"), (80, "fd00:ec2::254/128")}


@pytest.mark.parametrize(
    ("words", "opened"),
    [
        ([], set()),
        ([NO_SECRET], AGENT | NODE),
        ([NO_SECRET, "networkPolicy.identity=pod-identity"], AGENT),
        ([NO_SECRET, "networkPolicy.identity=node"], NODE),
        ([NO_SECRET, IRSA], {(443, "any")}),
        ([NO_SECRET, IRSA, "networkPolicy.sts.cidrs={10.0.0.7/32}"], {(443, "10.0.0.7/32")}),
        (["checkpoint.ledger=postgresql://a:b@db/effects"], {(5432, "any")}),
        (["checkpoint.ledger=postgres://a@one:5433\\,two/effects"], {(5433, "any"), (5432, "any")}),
        (["checkpoint.ledger=rediss://cache"], {(6379, "any")}),
        (["checkpoint.ledger=redis://cache:7000/0"], {(7000, "any")}),
        (["checkpoint.ledger=sqlite:////data/ledger"], set()),
    ],
)
def test_policy_opens_what_credentials_and_ledger_need(words: list[str], opened: set[tuple[int, str]]):
    assert egress(STORE, *words) == BUCKET | opened


def test_irsa_reaches_sts_where_the_stores_addresses_are_listed():
    limited = egress("store.endpoint=", NO_SECRET, IRSA, "networkPolicy.store.cidrs={10.0.0.0/8}")
    assert limited == {(443, "10.0.0.0/8"), (443, "any")}


def test_azures_identity_is_asked_for_by_the_label_it_needs():
    client = r"serviceAccount.annotations.azure\.workload\.identity/client-id=a-b"
    metadata = chart.workload(rendered(S3, client))["spec"]["template"]["metadata"]
    assert metadata["labels"]["azure.workload.identity/use"] == "true"
    assert metadata["annotations"]["azure.workload.identity/skip-containers"] == "job"
    assert "azure.workload.identity/use" not in rendered(S3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            [NO_SECRET, r"serviceAccount.annotations.iam\.gke\.io/gcp-service-account=a@b"],
            "gives no credentials of an S3",
        ),
        (["store.endpoint=https://storage.googleapis.com"], "which Google's S3 API does not document"),
        ([NO_SECRET, "spot.provider=aks"], "gives no credentials of an S3 server"),
        (
            ["networkPolicy.enabled=true", "hooks.specs={webhook?url=$URL}"],
            "talk to: the hook webhook. List it",
        ),
        (
            ["networkPolicy.enabled=true", "checkpoint.env[0].name=CKPTRUN_LEDGER"],
            "the ledger of checkpoint.env",
        ),
        (["gpu.count=1"], "make image EXTRAS=kube,postgres,redis,cuda"),
    ],
)
def test_notes_name_what_is_still_to_be_done(words: list[str], said: str):
    sets = [part for word in words for part in ("--set", word)]
    assert said in chart.notes("-f", S3, *sets)


def test_notes_do_not_speak_of_identities_that_serve():
    assert "NOTE" not in chart.notes("-f", S3, "--set", NO_SECRET, "--set", IRSA)


def test_karpenters_nodes_have_a_label_of_their_own():
    spec = chart.pod_spec(chart.workload(rendered(S3, "spot.provider=karpenter")))
    assert spec["nodeSelector"] == {"karpenter.sh/capacity-type": "spot"}


QUEUE = r"jobLabels.kueue\.x-k8s\.io/queue-name=team"


@pytest.mark.parametrize("kind", ["Job", "CronJob"])
def test_queue_of_a_job_is_its_own_label_and_not_its_pods(kind: str):
    cron = ["cron.schedule=@daily"] if kind == "CronJob" else []
    document = chart.workload(rendered(S3, f"kind={kind}", QUEUE, "jobAnnotations.a=b", *cron))
    job: dict[str, Any] = document["spec"]["jobTemplate"] if cron else document
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    assert job["metadata"]["annotations"] == {"a": "b"}
    assert "kueue.x-k8s.io/queue-name" not in job["spec"]["template"]["metadata"]["labels"]


@pytest.mark.parametrize("mode", ["sidecar", "wrapper"])
def test_own_init_containers_run_before_ckptruns(mode: str):
    own = ["initContainers[0].name=fetch", "initContainers[0].image=x"]
    spec = chart.pod_spec(chart.workload(rendered(S3, f"mode={mode}", *own)))
    names = [container["name"] for container in spec["initContainers"]]
    assert names == ["fetch", *(["ckptrun-install", "ckptrun"] if mode == "sidecar" else [])]


def test_pods_are_spread_and_find_names_as_the_values_say():
    spread = "topologySpreadConstraints[0]"
    sets = [f"{spread}.maxSkew=1", f"{spread}.topologyKey=zone", f"{spread}.whenUnsatisfiable=ScheduleAnyway"]
    spec = chart.pod_spec(
        chart.workload(rendered(S3, *sets, "dnsPolicy=None", "dnsConfig.nameservers={10.0.0.10}"))
    )
    assert spec["topologySpreadConstraints"][0]["topologyKey"] == "zone"
    assert (spec["dnsPolicy"], spec["dnsConfig"]) == ("None", {"nameservers": ["10.0.0.10"]})


def test_bare_pod_has_its_deadline_itself():
    assert (
        chart.pod_spec(chart.workload(rendered(POD, "activeDeadlineSeconds=60")))["activeDeadlineSeconds"]
        == 60
    )
