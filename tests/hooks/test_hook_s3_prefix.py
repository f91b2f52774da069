"""The ready-made hook `s3-prefix` against a real S3 server."""

from __future__ import annotations

import functools
import itertools
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from support.hook_programs import Answer, call, call_inside, context, program, start
from support.ports import free_ports
from support.processes import PATIENCE
from support.s3 import BUCKET, S3Server

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow

OK = {"ok": True, "error": None}
NUMBERS = itertools.count()
CREDENTIALS = {"access_key": "tester", "secret_key": "tester-secret", "region": "us-east-1"}
BARE = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "") | {
    "AWS_EC2_METADATA_DISABLED": "true"
}


def at(seconds: float) -> dict[str, Any]:
    """Return a checkpoint of so many seconds before or after now."""
    return {"id": "c-1", "trigger": "interval", "created": time.time() + seconds}


@functools.cache
def client(endpoint: str) -> Any:
    session = boto3.session.Session("tester", "tester-secret", region_name="us-east-1")
    return session.client("s3", endpoint_url=endpoint)


class Tree:
    """A prefix of its own, and the hook on it."""

    def __init__(self, server: S3Server, bucket: str) -> None:
        self.server, self.bucket = server, bucket
        self.prefix = f"out{next(NUMBERS)}"
        self.client = client(server.endpoint)
        self.options: dict[str, Any] = {
            "url": f"s3://{bucket}/{self.prefix}",
            "endpoint_url": server.endpoint,
            **CREDENTIALS,
        }

    def put(self, **contents: str) -> None:
        for name, content in contents.items():
            self.client.put_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}", Body=content.encode())

    def delete(self, name: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}")

    def have(self, folder: str = "") -> dict[str, str]:
        """Return what is below a folder beside the prefix; below the prefix unless told."""
        start = folder or f"{self.prefix}/"
        listed = self.client.list_objects_v2(Bucket=self.bucket, Prefix=start).get("Contents", ())
        return {
            entry["Key"].removeprefix(start): self.client.get_object(Bucket=self.bucket, Key=entry["Key"])[
                "Body"
            ]
            .read()
            .decode("utf-8", "replace")
            for entry in listed
        }

    def aside(self, checkpoint: str = "c-1") -> dict[str, str]:
        return self.have(f"{self.prefix}.ckptrun-aside/{checkpoint}/")

    def call(self, phase: str, **fields: Any) -> Answer:
        return call_inside("s3-prefix", phase, options=self.options, **fields)

    def checkpoint(self, during: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Take one, with something between the listings; return the fields of a context that it comes back with."""
        data = self.call("pre-checkpoint").data
        during()
        freeze = at(0)
        after = self.call("post-checkpoint", data=data, outcome=OK, checkpoint=freeze)
        return {"data": data | after.result.get("data", {}), "checkpoint": freeze}


@pytest.fixture
def tree(s3_server: S3Server) -> Tree:
    return Tree(s3_server, BUCKET)


@pytest.fixture
def versioned(s3_server: S3Server) -> Tree:
    tree = Tree(s3_server, f"versioned{next(NUMBERS)}")
    tree.client.create_bucket(Bucket=tree.bucket)
    tree.client.put_bucket_versioning(Bucket=tree.bucket, VersioningConfiguration={"Status": "Enabled"})
    return tree


def test_what_was_written_after_the_checkpoint_is_moved_aside(tree: Tree):
    tree.put(a="1", b="2")
    taken = tree.checkpoint()
    tree.put(c="3")
    tree.client.put_object(
        Bucket=tree.bucket, Key=f"{tree.prefix}/deep/é %+", Body=b"4", Metadata={"who": "me"}
    )
    answer = tree.call("pre-restore", **taken)
    assert answer.result["done"] == ["aside"]
    assert answer.event("s3-prefix")["aside"]["count"] == 2
    assert tree.have() == {"a": "1", "b": "2"}
    assert tree.aside() == {"c": "3", "deep/é %+": "4"}
    moved = f"{tree.prefix}.ckptrun-aside/c-1/deep/é %+"
    assert tree.client.head_object(Bucket=tree.bucket, Key=moved)["Metadata"] == {"who": "me"}


def test_nothing_is_done_where_nothing_has_changed(tree: Tree):
    tree.put(a="1")
    answer = tree.call("pre-restore", **tree.checkpoint())
    assert all(not answer.event("s3-prefix")[kind]["count"] for kind in ("aside", "missing", "overwritten"))
    assert tree.have() == {"a": "1"}


def test_what_was_written_between_the_first_listing_and_the_freeze_stays(tree: Tree):
    taken = tree.checkpoint(during=lambda: tree.put(a="1"))
    tree.put(b="2")
    tree.call("pre-restore", **taken)
    assert tree.have() == {"a": "1"}


def test_without_a_second_listing_the_servers_clock_decides(tree: Tree):
    data = tree.call("pre-checkpoint").data
    tree.put(x="1")
    tree.call("pre-restore", data=data, checkpoint=at(+60))
    assert tree.have() == {"x": "1"}
    head = tree.client.head_object(Bucket=tree.bucket, Key=f"{tree.prefix}/x")
    within = at(0) | {"created": head["LastModified"].timestamp() + 0.5}  # its second; it says no more
    answer = tree.call("pre-restore", data=data, checkpoint=within)
    assert tree.have() == {"x": "1"}
    assert answer.event("s3-prefix")["in_doubt"]["count"] == 1
    tree.call("pre-restore", data=data, checkpoint=at(-60))
    assert tree.have() == {}


def test_the_clock_also_decides_between_the_freeze_and_the_second_listing(tree: Tree):
    data = tree.call("pre-checkpoint").data
    tree.put(x="1")
    seen = data | tree.call("post-checkpoint", data=data, outcome=OK).data
    tree.call("pre-restore", data=seen, checkpoint=at(+60))
    assert tree.have() == {"x": "1"}
    tree.call("pre-restore", data=seen, checkpoint=at(-60))
    assert tree.have() == {}


def test_another_clock_than_the_servers_changes_nothing(tree: Tree):
    day = 86_400.0  # this machine says what the server's clock will say tomorrow
    data = tree.call("pre-checkpoint").data
    data["clock"] = [edge - day for edge in data["clock"]]
    tree.put(x="1")
    tree.call("pre-restore", data=data, checkpoint=at(day + 60))
    assert tree.have() == {"x": "1"}
    tree.call("pre-restore", data=data, checkpoint=at(day - 60))
    assert tree.have() == {}


def test_answers_narrow_the_clock_down_and_a_clock_that_was_set_starts_anew():
    clock = program("s3-prefix").Clock()
    zero = "Thu, 01 Jan 1970 00:00:{:02d} GMT".format
    clock.heard(9.5, 9.6, zero(10))
    assert (clock.low, clock.high) == pytest.approx((0.4, 1.5))
    clock.heard(10.2, 10.3, zero(11))
    assert (clock.low, clock.high) == pytest.approx((0.7, 1.5))
    clock.heard(11.5, 11.6, zero(12))
    assert (clock.low, clock.high) == pytest.approx((0.7, 1.5))
    clock.heard(12.5, 12.6, zero(43))
    assert (clock.low, clock.high) == pytest.approx((30.4, 31.5))


def test_what_is_overwritten_or_deleted_is_named_and_left(tree: Tree):
    tree.put(a="1", b="2")
    taken = tree.checkpoint()
    tree.put(a="other")
    tree.delete("b")
    event = tree.call("pre-restore", **taken).event("s3-prefix")
    assert event["overwritten"]["keys"] == [f"{tree.prefix}/a"]
    assert event["missing"]["keys"] == [f"{tree.prefix}/b"]
    assert tree.have() == {"a": "other"}


def test_where_the_bucket_has_versions_they_come_back(versioned: Tree):
    versioned.put(a="1", b="2", kept="3")
    taken = versioned.checkpoint()
    versioned.put(a="other", c="new")
    versioned.put(a="and another")
    versioned.delete("b")
    event = versioned.call("pre-restore", **taken).event("s3-prefix")
    assert versioned.have() == {"a": "1", "b": "2", "kept": "3"}
    assert versioned.aside() == {"c": "new"}
    assert (event["returned"]["count"], event["overwritten"]["count"], event["missing"]["count"]) == (2, 0, 0)
    again = versioned.call("pre-restore", **taken).event("s3-prefix")
    assert again["returned"]["count"] == 0
    assert versioned.have() == {"a": "1", "b": "2", "kept": "3"}


def test_a_version_between_two_listings_is_found_by_what_it_was_or_by_the_clock():
    hook = program("s3-prefix")
    clock, freeze = hook.Clock(0.0, 1.0), 100.0
    late, then, deleted, first = (
        hook.Version(name, moment, state == hook.GONE, state)
        for name, moment, state in (
            ("late", 150.0, ("l", 1)),
            ("then", 99.0, ("t", 1)),
            ("deleted", 60.0, hook.GONE),
            ("first", 50.0, ("f", 1)),
        )
    )
    older = [late, then, deleted, first]
    by_clock = hook.Position({"k": ("f", 1)}, None, clock, freeze)
    assert by_clock.then("k", older) is then
    assert by_clock.then("k", [late, deleted, first]) is deleted
    assert by_clock.then("k", [late]) is None
    seen = hook.Position({"k": ("f", 1)}, {"k": ("l", 1)}, clock, freeze)  # written while it was looked at
    assert seen.then("k", older) is late
    assert hook.Position({"k": ("f", 1)}, {}, clock, freeze).then("k", older) is first


def test_repeated_and_after_another_replay_nothing_that_was_kept_is_lost(tree: Tree):
    taken = tree.checkpoint()
    for content in ("first", "second", "second"):
        tree.put(x=content)
        tree.call("pre-restore", **taken)
        tree.call("pre-restore", **taken)
        assert tree.have() == {}
    assert {"first", "second"} == set(tree.aside().values())


def test_killed_anywhere_and_repeated_it_ends_the_same(tree: Tree):
    tree.put(a="1")
    taken = tree.checkpoint()
    new = {f"n{number}": str(number) for number in range(24)}
    tree.put(**new)
    given = context("pre-restore", options=tree.options, **taken)
    process = start("s3-prefix", given)
    deadline = time.monotonic() + PATIENCE
    while not tree.aside() and process.poll() is None:
        assert time.monotonic() < deadline
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    assert {**tree.have(), **tree.aside()} == {"a": "1", **new}
    assert tree.call("pre-restore", **taken).code == 0
    assert tree.have() == {"a": "1"}
    assert tree.aside() == new


def test_a_prefix_is_a_folder_and_its_neighbours_are_not_touched(tree: Tree):
    taken = tree.checkpoint()
    neighbour = f"{tree.prefix}0/x"
    tree.client.put_object(Bucket=tree.bucket, Key=neighbour, Body=b"mine")
    tree.put(x="1")
    tree.call("pre-restore", **taken)
    assert tree.have(f"{tree.prefix}0/") == {"x": "mine"}


def test_a_whole_bucket_does_not_hold_what_was_moved_aside(versioned: Tree):
    versioned.options["url"] = f"s3://{versioned.bucket}"
    taken = versioned.checkpoint()
    versioned.put(x="1")
    for count in (1, 0):
        answer = versioned.call("pre-restore", **taken)
        assert answer.event("s3-prefix")["aside"]["count"] == count
    assert versioned.have(".ckptrun-aside/c-1/") == {f"{versioned.prefix}/x": "1"}


def test_a_listing_too_large_for_the_checkpoint_is_kept_in_the_bucket_and_trimmed(tree: Tree):
    def name(number: int) -> str:
        return f"{os.urandom(100).hex()}/{os.urandom(100).hex()}/{number}"

    tree.put(**{name(number): "" for number in range(210)})
    taken = tree.checkpoint()
    assert taken["data"]["listing_at"] == f"{tree.prefix}.ckptrun-state/train/c-1.zst"
    tree.put(x="1")
    taken["checkpoint"]["created"] -= 60
    assert tree.call("pre-restore", **taken).event("s3-prefix")["aside"]["count"] == 1
    second = at(0) | {"id": "c-2"}
    time.sleep(1.1)  # the server's times have whole seconds
    data = tree.call("pre-checkpoint", checkpoint=second).data
    tree.call("post-checkpoint", checkpoint=second, data=data, outcome=OK)
    listings = f"{tree.prefix}.ckptrun-state/train/"
    for kept, left in ((None, 2), (["c-1", "c-2"], 2), (["c-2"], 1)):
        assert (
            tree.call("post-commit", checkpoint=taken["checkpoint"], data=taken["data"], kept=["c-1"]).result
            == {}
        )
        tree.call("post-commit", checkpoint=second, data=data, kept=kept)
        assert list(tree.have(listings)) == ["c-1.zst", "c-2.zst"][-left:]
    tree.client.put_object(Bucket=tree.bucket, Key=data["listing_at"], Body=b"other")
    assert "somebody has changed it" in tree.call("pre-restore", checkpoint=second, data=data).reason
    assert "c-1.zst of this checkpoint is gone" in tree.call("pre-restore", **taken).reason


@pytest.mark.parametrize("endpoint", ["minio:9000", "http//s3.example.com", "https://"])
def test_an_endpoint_that_is_no_url_is_named_with_what_to_write(tree: Tree, endpoint: str):
    tree.options["endpoint_url"] = endpoint
    answer = tree.call("pre-checkpoint")
    assert answer.reason.startswith(f"option endpoint_url is no URL: {endpoint!r}; write http:// or https://")


def test_a_dry_run_says_what_would_be_done_and_does_nothing(tree: Tree):
    taken = tree.checkpoint()
    tree.put(x="1")
    answer = tree.call("pre-restore", dry_run=True, **taken)
    assert answer.result["reason"].startswith("1 objects would be moved to s3://")
    assert tree.have() == {"x": "1"}


def test_a_checkpoint_that_knows_nothing_of_the_prefix_is_refused(tree: Tree):
    assert "was taken without this hook" in tree.call("pre-restore").reason
    taken = tree.checkpoint()
    taken["data"]["prefix"] = "s3://else/where/"
    assert "was taken with url=s3://else/where/" in tree.call("pre-restore", **taken).reason


def test_more_objects_than_the_limit_are_refused(tree: Tree):
    tree.put(a="1", b="2")
    tree.options["limit"] = 1
    assert "holds more than 1 objects" in tree.call("pre-checkpoint").reason


def test_a_server_that_is_down_and_credentials_that_are_wrong_or_lacking_are_told(tree: Tree):
    tree.options["secret_key"] = "wrong"
    assert "SignatureDoesNotMatch" in tree.call("pre-checkpoint").reason
    del tree.options["secret_key"], tree.options["access_key"]
    answer = call("s3-prefix", "pre-checkpoint", BARE, options=tree.options)
    assert "pass access_key=$NAME&secret_key=$NAME" in answer.reason
    (port,) = free_ports(1)
    tree.options |= {"endpoint_url": f"http://127.0.0.1:{port}", **CREDENTIALS}
    assert "Could not connect" in tree.call("pre-checkpoint").reason


def test_a_reader_cannot_move_and_nothing_is_lost(tree: Tree):
    taken = tree.checkpoint()
    tree.put(x="1")
    tree.options |= {"access_key": "reader", "secret_key": "reader-secret"}
    assert "AccessDenied" in tree.call("pre-restore", **taken).reason
    assert tree.have() == {"x": "1"}
