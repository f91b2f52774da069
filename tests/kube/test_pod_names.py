"""Which lineage a pod's run is, by the downward API's variables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from ckptrun.errors import UsageError
from ckptrun.settings import find_pod, resolve_run
from ckptrun.settings.names import NAME_LIMIT, check_name
from ckptrun.settings.pod import LineageKey, Pod, pod_lineage

if TYPE_CHECKING:
    from collections.abc import Mapping

POD = {"CKPTRUN_POD_NAMESPACE": "team", "CKPTRUN_POD_NAME": "train-7-x2x4v", "CKPTRUN_POD_UID": "pod-uid"}
JOB = {**POD, "CKPTRUN_JOB_NAME": "train", "CKPTRUN_JOB_UID": "job-uid"}
INDEXED = {**JOB, "CKPTRUN_COMPLETION_INDEX": "3"}

_labels = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)
_names = st.lists(_labels, min_size=1, max_size=4).map(".".join)


def resolved(environ: Mapping[str, str], given: Mapping[str, Any] | None = None) -> str:
    environ = {"CKPTRUN_PASSPHRASE": "open sesame", **environ}
    return resolve_run(("python", "t.py"), given or {}, environ, Path("/nowhere"), Path("/home")).name


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        (POD, "team.train-7-x2x4v"),
        (JOB, "team.train"),
        (INDEXED, "team.train.3"),
        ({**INDEXED, "CKPTRUN_LINEAGE_KEY": "uid"}, "team.job-uid.3"),
        ({**POD, "CKPTRUN_LINEAGE_KEY": "uid"}, "team.pod-uid"),
        ({**JOB, "CKPTRUN_COMPLETION_INDEX": "", "CKPTRUN_LINEAGE_KEY": ""}, "team.train"),
        ({**JOB, "CKPTRUN_NAME": "mine"}, "mine"),
    ],
)
def test_the_lineage_of_a_pod(environ: dict[str, str], name: str):
    assert resolved({**environ, "CKPTRUN_STORE": "s3://bucket/x"}) == name
    assert resolved(environ) == name


def test_the_command_line_names_the_lineage_before_the_pod_does():
    assert resolved(INDEXED, {"name": "mine", "store": "s3://bucket"}) == "mine"


def test_a_bucket_needs_a_name_where_there_is_no_pod():
    with pytest.raises(UsageError, match="CKPTRUN_POD_NAMESPACE"):
        resolved({"CKPTRUN_STORE": "s3://bucket/x", "CKPTRUN_POD_NAME": "only"})


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({**JOB, "CKPTRUN_LINEAGE_KEY": "label"}, "CKPTRUN_LINEAGE_KEY='label' is no such choice"),
        ({**JOB, "CKPTRUN_JOB_UID": "", "CKPTRUN_LINEAGE_KEY": "uid"}, "CKPTRUN_JOB_UID, which is not set"),
        ({**JOB, "CKPTRUN_COMPLETION_INDEX": "1/2"}, "CKPTRUN_COMPLETION_INDEX='1/2'"),
        ({**JOB, "CKPTRUN_POD_NAMESPACE": "no spaces"}, "cannot name a lineage"),
    ],
)
def test_what_names_no_lineage_is_refused(environ: dict[str, str], words: str):
    with pytest.raises(UsageError, match=words):
        pod_lineage(environ)


def test_what_the_downward_api_says_of_the_pod():
    pod = find_pod({**INDEXED, "CKPTRUN_NODE_NAME": "n1", "CKPTRUN_SERVICE_ACCOUNT": "sa"})
    assert pod == Pod("team", "train-7-x2x4v", "pod-uid", "n1", "sa", "train", "job-uid", "3")
    assert find_pod({"CKPTRUN_POD_NAMESPACE": "team"}) is None


@for_all(_labels, _names, st.integers(0, 10**9), st.booleans())
def test_every_job_has_a_name_that_a_lineage_can_have(namespace: str, job: str, index: int, indexed: bool):
    pod = Pod(namespace, "p", job=job, index=str(index) if indexed else "")
    name = pod.lineage(LineageKey.NAME)
    assert len(check_name(name)) <= NAME_LIMIT
    other = Pod(namespace, "p", job=f"{job}.{index}")
    assert other.lineage() != Pod(namespace, "p", job=job, index=str(index)).lineage()


def test_names_too_long_differ_where_only_their_ends_do():
    one, other = (Pod("n" * 63, "p", job="j" * 63, index=index).lineage() for index in "12")
    assert one != other
