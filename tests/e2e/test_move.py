"""A job moves to another machine: all it takes along is the store, a real S3 server."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support.run import REPOSITORY, RESTORED, STARTED, Lab

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.s3 import S3Server

pytestmark = pytest.mark.slow

TRAINING = (sys.executable, REPOSITORY / "examples" / "train_digits.py", "--steps", 300)


@pytest.fixture
def lab(s3_server: S3Server, tmp_path: Path) -> Iterator[Lab]:
    environment = {**s3_server.env, "CKPTRUN_PASSPHRASE": "correct horse battery staple"}
    with Lab(tmp_path, store=f"{s3_server.url}/{tmp_path.name}", environment=environment) as lab:
        yield lab
        lab.close()
        lab.expect_nothing_left()


def test_a_job_whose_machine_is_lost_goes_on_from_the_bucket_with_the_same_digest(lab: Lab, tmp_path: Path):
    reference = tmp_path / "reference"
    reference.mkdir()
    words = list(map(str, TRAINING))
    undisturbed = subprocess.run(words, cwd=reference, capture_output=True, text=True, check=True).stdout

    command = (*TRAINING, "--step-seconds", 0.06)
    run = lab.start(*command, options=("--interval", "1s"))
    run.commit(2)
    run.kill_supervisor()
    lab.lose_machine()
    shutil.rmtree(lab.work)
    lab.work.mkdir()
    again = lab.start(*command, options=("--interval", "1s"))
    result = again.wait()

    assert result.code == 0, again.story()
    assert [event["event"] for event in lab.events() if event["event"] in {RESTORED, STARTED}] == [
        RESTORED
    ], again.story()
    assert result.out.splitlines()[-1] == undisturbed.splitlines()[-1]
    assert (lab.work / "train.csv").read_bytes() == (reference / "train.csv").read_bytes()
    assert (lab.work / "model.npz").read_bytes() == (reference / "model.npz").read_bytes()


def test_another_machine_lists_and_shows_what_the_bucket_has(lab: Lab):
    run = lab.start(*TRAINING, "--step-seconds", 1)
    identity = run.checkpoint()
    run.kill_supervisor()
    lab.lose_machine()
    (row,) = lab.ask("ls", "--json").json
    assert (row["name"], row["state"], row["checkpoints"]) == (lab.name, "interrupted", 1)
    assert [found["id"] for found in lab.checkpoints()] == [identity]
    verified = lab.ask("verify", "--json").json
    assert verified["bad"] == []
    assert verified["checked_bytes"] > 1_000_000


def test_the_wrong_passphrase_opens_nothing(lab: Lab):
    run = lab.start(*TRAINING, "--step-seconds", 1)
    run.checkpoint()
    run.kill_supervisor()
    lab.environment = {**lab.environment, "CKPTRUN_PASSPHRASE": "wrong"}
    refused = lab.run(*TRAINING, "--step-seconds", 1)
    assert refused.code == 78, refused.err
    assert "key" in refused.err or "passphrase" in refused.err


def test_the_job_never_sees_the_keys_of_the_store(lab: Lab):
    result = lab.run("env")
    assert result.code == 0, result.err
    for secret in ("tester-secret", "correct horse", "AWS_SECRET_ACCESS_KEY"):
        assert secret not in result.out


def test_a_bucket_is_not_used_without_encryption_unless_that_is_said(lab: Lab):
    lab.environment = {key: value for key, value in lab.environment.items() if key != "CKPTRUN_PASSPHRASE"}
    refused = lab.run("true")
    assert refused.code == 78
    assert "--no-encryption" in refused.err
    assert lab.run("true", options=("--no-encryption",)).code == 0
