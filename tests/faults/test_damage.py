"""Stores whose bytes are not what was written, keys that do not fit: no wrong restore, no silent new start."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import chain
import pytest
from careless import CarelessBucket
from support.run import RESTORED, STARTED

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.run import Lab, Result, Run

pytestmark = pytest.mark.slow

JOB = (sys.executable, Path(__file__).with_name("chain.py"))
OFTEN = ("--interval", "0.3s")


def folder(lab: Lab) -> Path:
    return Path(lab.store.removeprefix("file://")) / lab.name


def objects(lab: Lab, kind: str) -> list[Path]:
    """Return the packs or manifests, the newest last."""
    return sorted((folder(lab) / kind).iterdir(), key=lambda path: path.stat().st_mtime_ns)


def heads(lab: Lab) -> list[Path]:
    """Return the generations of HEAD, the newest last."""
    return sorted(folder(lab).glob("HEAD.*"), key=lambda path: int(path.suffix[1:]))


def flip(path: Path) -> None:
    """Change one byte in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x55
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def interrupted(lab: Lab, commits: int = 2) -> list[str]:
    """Have a run killed after some commits; return the ids of its checkpoints, newest first.

    None is under way when it is killed: the newest files are the newest checkpoint's.
    """
    run = lab.start(*JOB)
    for _ in range(commits):
        run.checkpoint()
    run.kill_supervisor()
    return [checkpoint["id"] for checkpoint in lab.checkpoints()]


def finish(lab: Lab, run: Run) -> Result:
    (lab.work / "finish").touch()
    result = run.wait()
    assert result.code == 0, result.err
    assert chain.is_exact(lab.work, result.out), result.err
    return result


def refused(lab: Lab, code: int, *words: str) -> None:
    """Check that the same command is refused, with these words, and that the job was not started over."""
    before = len(lab.events())
    result = lab.run(*JOB, options=OFTEN)
    assert result.code == code, result.err
    assert result.out == ""
    assert "Traceback" not in result.err
    for word in words:
        assert word in result.err
    assert not [event for event in lab.events()[before:] if event["event"] in {STARTED, RESTORED}]


@pytest.mark.parametrize("harm", [flip, truncate, Path.unlink], ids=["altered", "cut short", "missing"])
@pytest.mark.parametrize("kind", ["packs", "manifests"])
def test_a_damaged_newest_checkpoint_is_said_and_the_one_before_is_restored(
    lab: Lab, kind: str, harm: Callable[[Path], None]
):
    newest, older, *_ = interrupted(lab)
    harm(objects(lab, kind)[-1])
    verified = lab.ask("verify", "--json")
    assert verified.code == 73
    assert any(newest in str(bad) for bad in verified.json["bad"])

    run = lab.start(*JOB, options=OFTEN)
    assert run.event(RESTORED)["checkpoint"] == older
    run.commit()
    errors = finish(lab, run).err
    assert newest in errors
    assert older in errors
    left = lab.ask("verify", "--json")
    assert (left.code, left.json["bad"]) == (0, []), (
        "what is corrupt is out of the lineage, and not built upon"
    )


@pytest.mark.parametrize("kind", ["packs", "manifests"])
def test_when_all_checkpoints_are_damaged_the_job_is_not_started_over_silently(lab: Lab, kind: str):
    interrupted(lab)
    for path in objects(lab, kind):
        flip(path)
    refused(lab, 74, "--fresh")
    refused(lab, 78, "--fresh")  # the same command again, as a service manager would


def test_after_that_fresh_starts_anew(lab: Lab):
    interrupted(lab)
    for path in objects(lab, "manifests"):
        flip(path)
    refused(lab, 74)
    before = len(lab.events())
    run = lab.start(*JOB, options=(*OFTEN, "--fresh"))
    run.event(STARTED, after=before)
    run.commit()
    finish(lab, run)


@pytest.mark.parametrize("harm", [flip, truncate], ids=["altered", "cut short"])
def test_a_damaged_newest_head_is_said_and_the_generation_before_counts(
    lab: Lab, harm: Callable[[Path], None]
):
    known = interrupted(lab, 3)
    harm(heads(lab)[-1])
    run = lab.start(*JOB, options=OFTEN)
    assert run.event(RESTORED)["checkpoint"] in known
    run.commit()
    errors = finish(lab, run).err
    assert "HEAD cannot be read" in errors
    assert all(line.startswith("ckptrun: ") for line in errors.splitlines()), errors


def test_when_no_head_is_left_whole_the_job_is_not_started_over_silently(lab: Lab):
    interrupted(lab)
    for path in heads(lab):
        flip(path)
    refused(lab, 73, "HEAD")


def test_a_head_replaced_by_an_older_copy_is_noticed(lab: Lab):
    interrupted(lab, 3)
    generations = heads(lab)
    for path in generations[2:]:
        path.unlink()
    refused(lab, 73, "older", "seen")


def encrypted(lab: Lab, environment: dict[str, str], options: tuple[str, ...] = ()) -> None:
    """Have an encrypted lineage with checkpoints; the lab then has no key."""
    lab.environment, lab.options = environment, options
    run = lab.start(*JOB, options=OFTEN)
    run.commit(2)
    run.kill_supervisor()
    lab.environment, lab.options = {}, ()


def test_a_wrong_passphrase_is_refused_and_the_right_one_resumes(lab: Lab):
    encrypted(lab, {"CKPTRUN_PASSPHRASE": "correct horse"})
    lab.environment = {"CKPTRUN_PASSPHRASE": "battery staple"}
    refused(lab, 78, "passphrase")
    lab.environment = {}
    refused(lab, 78, "CKPTRUN_PASSPHRASE")
    lab.environment = {"CKPTRUN_PASSPHRASE": "correct horse"}
    run = lab.start(*JOB, options=OFTEN)
    run.event(RESTORED)
    finish(lab, run)


def test_another_key_file_is_refused_and_the_right_one_resumes(lab: Lab):
    right, wrong = lab.folder / "right.key", lab.folder / "wrong.key"
    right.write_bytes(b"r" * 32)
    wrong.write_bytes(b"w" * 32)
    for path in (right, wrong):
        path.chmod(0o600)
    encrypted(lab, {}, ("--key-file", str(right)))
    lab.options = ("--key-file", str(wrong))
    refused(lab, 78, "key")
    lab.environment, lab.options = {"CKPTRUN_PASSPHRASE": "something else"}, ()
    refused(lab, 78, "key")
    lab.environment, lab.options = {}, ("--key-file", str(right))
    run = lab.start(*JOB, options=OFTEN)
    run.event(RESTORED)
    finish(lab, run)


def test_a_key_for_a_plain_lineage_is_refused(lab: Lab):
    interrupted(lab)
    lab.environment = {"CKPTRUN_PASSPHRASE": "correct horse"}
    refused(lab, 78, "encrypt")


@pytest.mark.parametrize("ignored", ["If-None-Match", "If-Match"])
def test_a_bucket_that_ignores_preconditions_is_refused_with_the_reason(lab: Lab, ignored: str):
    with CarelessBucket(ignored) as bucket:
        lab.store, lab.environment = bucket.url, bucket.env
        lab.options = ("--no-encryption", "--require-store")
        refused(lab, 73, ignored, "conditional writes")


def test_a_bucket_that_ignores_preconditions_gets_no_checkpoint_but_the_job_runs(lab: Lab):
    with CarelessBucket("If-Match") as bucket:
        lab.store, lab.environment, lab.options = bucket.url, bucket.env, ("--no-encryption",)
        run = lab.start(*JOB, options=OFTEN)
        run.event("checkpoint-staged")
        errors = finish(lab, run).err
        assert not lab.events("checkpoint-committed")
    assert "If-Match" in errors


def test_a_bucket_that_honours_them_is_taken(lab: Lab):
    """The careless bucket, when it is careful: or else the tests above would pass for any reason."""
    with CarelessBucket("") as bucket:
        lab.store, lab.environment, lab.options = bucket.url, bucket.env, ("--no-encryption",)
        run = lab.start(*JOB, options=OFTEN)
        run.commit()
        finish(lab, run)
