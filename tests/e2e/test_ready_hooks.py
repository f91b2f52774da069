"""Ready-made hooks around real jobs: what is outside ends as after an undisturbed run."""

from __future__ import annotations

import hashlib
import hmac
import os
import sys
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from support import postgres
from support.receiver import Receiver
from support.s3 import BUCKET, S3Server

from ckptrun.hooking.contract import Phase

if TYPE_CHECKING:
    from support.postgres import PostgresServer
    from support.run import Lab, Run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),  # MLflow's own
]
postgres_server = postgres.postgres_server

STEPS = """
import pathlib, time

def steps():
    '''Yields 1, 2, ... as far as the file `until` allows.'''
    step = 0
    while step < 9:
        while step >= int(pathlib.Path("until").read_text()):
            time.sleep(0.01)
        step += 1
        yield step
        print("did", step, flush=True)
"""
UPLOADS = f"""{STEPS}
import boto3, os, uuid
bucket = boto3.session.Session().client("s3", endpoint_url=os.environ["ENDPOINT"])
for step in steps():
    bucket.put_object(Bucket="{BUCKET}", Key=f"uploads/{{step}}-{{uuid.uuid4()}}", Body=b"x")
"""
METRICS = f"""{STEPS}
import os
from mlflow import MlflowClient
client, run = MlflowClient(), os.environ["MLFLOW_RUN_ID"]
client.log_metric(run, "started", 1.0)
for step in steps():
    client.log_metric(run, "loss", step / 10, step=step)
client.set_terminated(run)
"""


def allow(lab: Lab, step: int) -> None:
    fresh = lab.work / "fresh"
    fresh.write_text(str(step))
    fresh.replace(lab.work / "until")


def interrupted(lab: Lab, job: str, *options: str) -> Run:
    """Take a checkpoint after step 3, kill the job after step 6, and have it run to its end."""
    allow(lab, 3)
    run = lab.start(sys.executable, "-c", job, options=options)
    run.prints("did 3")
    run.checkpoint()
    allow(lab, 6)
    run.prints("did 6")
    run.restored(run.kill_job)
    allow(lab, 9)
    result = run.wait()
    assert result.code == 0, run.story()
    return run


def outcome(lab: Lab, phase: str) -> dict[str, Any]:
    """Return what became of the only call in this phase."""
    (event,) = [event for event in lab.events("hook") if event["phase"] == phase]
    assert event["outcome"] == "ok", event
    return event


def test_every_object_is_there_once(lab: Lab, s3_server: S3Server):
    credentials = {key: value for key, value in s3_server.env.items() if key.startswith("AWS_")}
    lab.environment = {**credentials, "ENDPOINT": s3_server.endpoint}
    spec = f"s3-prefix?url=s3://{BUCKET}/uploads&endpoint_url={s3_server.endpoint}"
    interrupted(lab, UPLOADS, "--hook", spec)
    outcome(lab, "pre-restore")
    client: Any = boto3.session.Session("tester", "tester-secret", region_name="us-east-1").client(
        "s3", endpoint_url=s3_server.endpoint
    )

    def steps(prefix: str) -> list[str]:
        keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]]
        return [key.rpartition("/")[2].partition("-")[0] for key in keys]

    assert steps("uploads/") == [str(step) for step in range(1, 10)]
    assert steps("uploads.ckptrun-aside/") == ["4", "5", "6"]


@pytest.mark.parametrize("place", ["folder", "postgresql"])
def test_curves_have_no_zigzag(
    lab: Lab, place: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    """The job writes the folder itself, so that it is also rolled back as files are; PostgreSQL is not."""
    variables = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ALLOW_FILE_STORE": "true"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    from mlflow import MlflowClient  # noqa: PLC0415 - slow to import

    if place == "folder":
        uri = str(lab.work / "mlruns")
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        uri = server.database().replace("postgresql://", "postgresql+psycopg://")
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("curves")).info.run_id
    lab.environment = {
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_RUN_ID": run,
        **variables,
    }
    interrupted(lab, METRICS, "--hook", "mlflow")
    assert outcome(lab, "pre-restore")["reason"].startswith("3 points cut in 1 runs")
    assert [point.step for point in client.get_metric_history(run, "loss")] == list(range(1, 10))
    assert len(client.get_metric_history(run, "started")) == 1
    found = client.get_run(run)
    assert (found.info.status, found.data.metrics["loss"]) == ("FINISHED", 0.9)


def test_every_phase_is_posted_with_a_signature_and_has_its_line(lab: Lab):
    phases = [phase for phase in Phase if phase != Phase.POST_COMMIT]
    phases.insert(2, Phase.POST_COMMIT)
    secret = os.urandom(8).hex()
    lab.environment = {"HOOK_SECRET": secret}
    lines = "&".join(
        f"{phase}=echo $CKPTRUN_PHASE >>said; grep -q {phase} $CKPTRUN_CONTEXT" for phase in phases
    )
    with Receiver() as receiver:
        lab.environment |= {"HOOK_URL": receiver.url}
        interrupted(
            lab,
            f"{STEPS}\nlist(steps())",
            "--hook",
            "webhook?url=$HOOK_URL&secret=$HOOK_SECRET",
            "--hook",
            f"command?{lines}",
        )
    assert (lab.work / "said").read_text().split() == phases
    assert [delivery.json["phase"] for delivery in receiver.deliveries] == phases
    assert len({delivery.headers["Idempotency-Key"] for delivery in receiver.deliveries}) == len(phases)
    for delivery in receiver.deliveries:
        signed = f"{delivery.headers['X-Ckptrun-Timestamp']}.".encode() + delivery.body
        expected = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
        assert delivery.headers["X-Ckptrun-Signature"] == f"sha256={expected}"
    assert {event["outcome"] for event in lab.events("hook")} == {"ok"}
    assert not any(secret in str(event) for event in lab.events())
