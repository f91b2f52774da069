"""Values that are wrong, or contradict each other, are refused by a sentence that names the value and the fix."""

from __future__ import annotations

import re

import pytest
from support import chart

S3 = str(chart.CHART / "ci" / "s3-values.yaml")
POD = str(chart.CHART / "ci" / "pod-values.yaml")
FULL = str(chart.CHART / "ci" / "full-values.yaml")

BY_SENTENCE = [
    ("job.image=", "job.image is empty: name the image"),
    ("job.command=null", "job.command is empty: name the job's program"),
    ("job.user=0", 'job.user: "0" is not what it can be: write a user other than root'),
    ("job.user=nobody", "write a user other than root, as 1000 or 1000:1000"),
    ("job.container=ckptrun", "job.container: ckptrun is the name of a container of ckptrun's"),
    ("job.env[0].name=CKPTRUN_INTERVAL", "job.env has CKPTRUN_INTERVAL, which is a setting of ckptrun's own"),
    ("store.url=", "store.url is empty: name where checkpoints live"),
    (
        "store.url=bucket/runs",
        'store.url: "bucket/runs" is not what it can be: write s3://bucket/prefix or file:///path',
    ),
    ("store.url=gs://bucket", "write s3://bucket/prefix or file:///path"),
    ("store.endpoint=minio:9000", "store.endpoint: .* write http://host:port"),
    ("store.volume.emptyDir.medium=Memory", "store.volume says nothing about the store s3://bucket/runs"),
    (
        "key.secret=",
        "key.secret is empty: s3://bucket/runs would hold the job's memory.* kubectl create secret",
    ),
    ("key.noEncryption=true", "key.secret and key.noEncryption contradict each other"),
    ("lineage.name=a,lineage.key=uid", "lineage.name and lineage.key=uid contradict each other"),
    ("lineage.name=a,kind=IndexedJob,completions=2", "lineage.name would be the same for every index"),
    (
        "completions=3",
        "completions and parallelism above 1 need kind IndexedJob: the pods of a Job would share one",
    ),
    ("kind=Pod,parallelism=2,completions=2", "the pods of a Pod would share one lineage"),
    ("kind=IndexedJob,completions=2,parallelism=3", "parallelism 3 is more than completions 2"),
    ("backoffLimitPerIndex=1", "backoffLimitPerIndex needs kind IndexedJob"),
    ("maxFailedIndexes=1", "maxFailedIndexes needs backoffLimitPerIndex"),
    ("kind=CronJob", "cron.schedule is empty: kind CronJob needs one"),
    ("cron.schedule=0 3 * * *", "cron.schedule and cron.timeZone say nothing about a Job"),
    (
        "restartPolicy=OnFailure",
        "Kubernetes takes a podFailurePolicy with Never only. Set podFailurePolicy.enabled=false",
    ),
    (
        "initContainers[0].name=job,initContainers[0].image=x",
        "initContainers: job is the name of another container",
    ),
    (
        "serviceAccount.create=false",
        "rbac.create would give ckptrun's rights to the namespace's account default.* serviceAccount.name",
    ),
    ("podFailurePolicy.ignoreExitCodes={75,78}", "exit code 78 is in ignoreExitCodes and in failExitCodes"),
    ("checkpoint.grace=0", "checkpoint.grace 0 leaves no time for a last checkpoint"),
    ("checkpoint.grace=soon", 'checkpoint.grace: "soon" is not what it can be: write 30s or 2m'),
    (
        "terminationGracePeriodSeconds=30",
        "terminationGracePeriodSeconds 30 is not longer than checkpoint.grace 30s: .* Raise it to 45, or leave it out",
    ),
    ("checkpoint.interval=often", 'checkpoint.interval: "often" .* write 30s, 5m, off or auto'),
    ("checkpoint.keep=hourly=3", "checkpoint.keep: .* write last=N"),
    ("checkpoint.staging=much", "checkpoint.staging: .* write 64M, 1G, 0 or auto"),
    ("checkpoint.journalLimit=auto", "checkpoint.journalLimit: .* write 64M or 1G"),
    ("checkpoint.maxFreeze=1x", "checkpoint.maxFreeze: .* write 60s or 2m"),
    ("checkpoint.portableCpu=v9", "checkpoint.portableCpu: .* as x86-64-v3"),
    ("checkpoint.preserve={data}", 'checkpoint.preserve: "data" .* write an absolute path'),
    ("checkpoint.preserve={/a:b}", "checkpoint.preserve: /a:b has a ':'"),
    ("checkpoint.restart=never,checkpoint.maxRestarts=3", "checkpoint.maxRestarts limits what"),
    ("checkpoint.labels.a=x\\,y", "checkpoint.labels: the value of a has a ','"),
    (
        "checkpoint.env[0].name=CKPTRUN_POD_NAME",
        "checkpoint.env has CKPTRUN_POD_NAME, which the pod itself tells",
    ),
    ("hooks.specs={a;b}", "hooks.specs: a;b has a ';'"),
    (
        "hooks.files.tell=x",
        "hooks.files has tell, which no hook of hooks.specs names: add /etc/ckptrun/hooks/tell",
    ),
    ("hooks.files.tell=x,hooks.configMap=y", "hooks.files and hooks.configMap are mounted at one place"),
    ("gpu.count=1,gpu.resourceName=amd.com/gpu", "the memory of NVIDIA's GPUs alone can be saved"),
    ("gpu.count=1,gpu.resourceName=nvidia.com/mig-1g.5gb", "a GPU divided by MIG cannot be saved"),
    ("gpu.count=1,job.resources.limits.nvidia\\.com/gpu=1", "which gpu.count sets: leave one of them out"),
    ("spot.provider=custom", "spot.provider custom says nothing by itself"),
    ("spot.nodeSelector.spot=yes", "hold with spot.provider custom, which is none"),
    ("mode=wrapper,podSecurityContext.fsGroup=1000", "would let the job's group read the key"),
    ("mode=wrapper,sidecar.native=true", "sidecar.native says nothing in mode wrapper"),
    ("podResources.enabled=true", "podResources.enabled=true without limits or requests"),
    ("job.volumes[0].name=ckptrun-key", "the volume name ckptrun-key is ckptrun's own"),
    (
        "job.volumeMounts[0].name=x,job.volumeMounts[0].mountPath=/ckptrun/bin",
        "/ckptrun/bin is ckptrun's own",
    ),
    ("job.volumeMounts[0].name=x,job.volumeMounts[0].mountPath=/tmp/", "set job.tmpSize=none"),
]

BY_SCHEMA = [
    ("kind=Deployment", "at '/kind': value must be one of 'Job', 'IndexedJob', 'CronJob', 'Pod'"),
    ("mode=daemon", "at '/mode': value must be one of 'sidecar', 'wrapper'"),
    ("intervall=5m", "additional properties 'intervall' not allowed"),
    ("job.imagee=x", "at '/job': additional properties 'imagee' not allowed"),
    ("checkpoint.onFailedRun=fresh", "at '/checkpoint/onFailedRun': value must be one of 'ask', 'resume'"),
    ("checkpoint.restart=sometimes", "at '/checkpoint/restart': value must be one of"),
    ("sidecar.native=perhaps", "at '/sidecar/native': value must be one of 'auto', true, false"),
    (
        "spot.provider=azure",
        "at '/spot/provider': value must be one of 'none', 'gke', 'eks', 'karpenter', 'aks', 'custom'",
    ),
    ("backoffLimit=many", "at '/backoffLimit': got string, want integer"),
    ("restartPolicy=Always", "at '/restartPolicy': value must be one of 'Never', 'OnFailure'"),
    (
        "podFailurePolicy.ignoreExitCodes={0}",
        "at '/podFailurePolicy/ignoreExitCodes/0': minimum: got 0, want 1",
    ),
    ("networkPolicy.store.cidrs={store}", "at '/networkPolicy/store/cidrs/0'"),
    ("fullnameOverride=Train_1", "at '/fullnameOverride'"),
    ("image.digest=abc", "at '/image/digest'"),
    ("gpu.hook=webhook", "at '/gpu/hook'"),
]


def refusal(*words: str, version: str = chart.NEWEST) -> str:
    done = chart.template(*words, version=version)
    assert done.returncode != 0, "it was taken"
    return done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("values", "sentence"), [*BY_SENTENCE, *BY_SCHEMA])
def test_wrong_values_are_refused_by_name(values: str, sentence: str):
    said = refusal("-f", S3, "--set", values)
    pattern = sentence if ".*" in sentence else re.escape(sentence)
    assert re.search(pattern, said), said


@pytest.mark.parametrize(
    ("base", "values", "version", "sentence"),
    [
        (
            POD,
            "store.volume=null",
            chart.NEWEST,
            "store.volume is empty: the store file:///store would be lost",
        ),
        (
            POD,
            "store.url=file:///ckptrun/state",
            chart.NEWEST,
            "a volume cannot be mounted at /ckptrun/state",
        ),
        (
            POD,
            "backoffLimit=3,suspend=true,jobLabels.a=b",
            chart.NEWEST,
            "backoffLimit and suspend and jobLabels: nothing of the kind is known to a bare Pod",
        ),
        (POD, "store.region=here", chart.NEWEST, "say nothing about the store file:///store"),
        (S3, "sidecar.native=true", chart.OLDEST, "sidecar.native=true needs Kubernetes 1.29"),
        (
            S3,
            "kind=IndexedJob,completions=2,backoffLimitPerIndex=1",
            chart.OLDEST,
            "backoffLimitPerIndex needs Kubernetes 1.29, this is v1.27.0",
        ),
        (
            S3,
            "podResources.enabled=true,podResources.limits.memory=1Gi",
            chart.OLDEST,
            "podResources needs Kubernetes 1.34",
        ),
    ],
)
def test_values_the_store_or_the_cluster_contradicts_are_refused(
    base: str, values: str, version: str, sentence: str
):
    assert sentence in refusal("-f", base, "--set", values, version=version)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            "kind=CronJob,cron.schedule=@daily,fullnameOverride=" + "a" * 53,
            "longer than the 52 characters of a CronJob's",
        ),
        (
            "kind=IndexedJob,completions=100,fullnameOverride=" + "a" * 61,
            "an index are longer than the 63 characters",
        ),
    ],
)
def test_names_that_get_too_long_are_refused(values: str, sentence: str):
    assert sentence in refusal("-f", S3, "--set", values)
