"""The bucket of the hook `s3-prefix`: the only importer of boto3 here. It must not know what a checkpoint is."""

from __future__ import annotations

import email.utils
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

COPY_BYTES = 5 << 30
"""The largest object that one request may copy."""
THREADS = 16
GONE = ("", -1)
"""The state of an object that is not there."""
MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
CHANGED = frozenset({"412", "PreconditionFailed"})
DENIED = frozenset({"403", "AccessDenied"})
UNSUPPORTED = frozenset({"501", "NotImplemented", "InvalidArgument", "InvalidRequest"})

State: TypeAlias = "tuple[str, int]"
"""What an object is compared by: ETag and size."""


class StepError(Exception):
    """The prefix cannot be brought in step, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Object:
    """One object as a listing has it; `modified` in seconds since the epoch, on the server's clock."""

    key: str
    etag: str
    size: int
    modified: float

    @property
    def state(self) -> State:
        """What it is compared by."""
        return self.etag, self.size


@dataclass(frozen=True, slots=True)
class Version:
    """One version of an object; a deletion is one too."""

    id: str
    modified: float
    deleted: bool
    state: State


@dataclass
class Clock:
    """How far the server's clock is ahead of this machine's, in seconds: between `low` and `high`."""

    low: float = float("-inf")
    high: float = float("inf")

    def heard(self, asked: float, answered: float, date: str) -> None:
        """Learn from one answer; it was made between two moments of ours, and its date has whole seconds."""
        said = email.utils.parsedate_to_datetime(date).timestamp()
        low, high = max(self.low, said - answered), min(self.high, said + 1 - asked)
        # A clock that has been set meanwhile contradicts itself: then only the newest answer counts.
        self.low, self.high = (low, high) if low <= high else (said - answered, said + 1 - asked)

    def is_late(self, modified: float, moment: float) -> bool:
        """Tell whether what the server has written then was surely written after a moment of ours."""
        return modified - self.high >= moment

    def is_early(self, modified: float, moment: float) -> bool:
        """Tell whether it was surely written before."""
        grain = 1.0 if modified == int(modified) else 0.001
        return modified + grain - self.low <= moment


class Prefix:
    """The bucket, seen through the declared prefix.

    Args:
        options: the hook's.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        bucket, _, prefix = options["url"].removeprefix("s3://").partition("/")
        stem = prefix.strip("/")
        self.bucket = bucket
        self.prefix = f"{stem}/" if stem else ""
        self.aside = f"{(options.get('aside') or f'{stem}.ckptrun-aside').strip('/')}/"
        self.state = f"{(options.get('state') or f'{stem}.ckptrun-state').strip('/')}/"
        self.limit = int(options.get("limit", 1_000_000))
        self.clock = Clock()
        endpoint = options.get("endpoint_url")
        session = boto3.session.Session(
            aws_access_key_id=options.get("access_key"),
            aws_secret_access_key=options.get("secret_key"),
            aws_session_token=options.get("session_token"),
            region_name=options.get("region"),
        )
        config = Config(
            connect_timeout=5,
            read_timeout=20,
            retries={"total_max_attempts": 3, "mode": "standard"},
            max_pool_connections=THREADS,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path"} if endpoint else {},
        )
        try:
            self.client: Any = session.client("s3", endpoint_url=endpoint, config=config)
        except ValueError as error:
            if not endpoint or isinstance(error, BotoCoreError):  # of the region, say
                raise
            shown = re.sub(r"//[^/]*@", "//...@", endpoint)
            raise StepError(
                f"option endpoint_url is no URL: {shown!r}; write http:// or https://, the server's name, and its"
                " port if it has one of its own, such as endpoint_url=https://s3.example.com:9000"
            ) from error

    def url(self, key: str = "") -> str:
        """Return an object's URL, or the prefix's."""
        return f"s3://{self.bucket}/{key or self.prefix}"

    def objects(self) -> dict[str, Object]:
        """List the prefix, but for what this hook keeps there itself."""
        found: dict[str, Object] = {}
        for entry in self._entries(self.prefix):
            key = entry["Key"]
            if key.startswith((self.aside, self.state)):
                continue
            found[key] = Object(key, entry["ETag"], entry["Size"], _seconds(entry["LastModified"]))
            if len(found) > self.limit:
                raise StepError(
                    f"{self.url()} holds more than {self.limit} objects; name a narrower prefix or raise limit="
                )
        return found

    def _entries(self, prefix: str) -> Iterator[dict[str, Any]]:
        more: dict[str, str] = {}
        while True:
            asked = time.time()
            page = self.client.list_objects_v2(Bucket=self.bucket, Prefix=prefix, **more)
            self.clock.heard(asked, time.time(), page["ResponseMetadata"]["HTTPHeaders"]["date"])
            yield from page.get("Contents", ())
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def is_versioned(self) -> bool:
        """Tell whether the bucket keeps older versions, or has done so; also when it does not say."""
        try:
            return "Status" in self.client.get_bucket_versioning(Bucket=self.bucket)
        except ClientError as error:
            return code(error) not in UNSUPPORTED

    def older(self, key: str) -> list[Version]:
        """Return the versions of an object before the newest, newest first; none if we may not know them."""
        found: list[Version] = []
        try:
            for page in self.client.get_paginator("list_object_versions").paginate(
                Bucket=self.bucket, Prefix=key
            ):
                for entry in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                    if entry["Key"] == key and not entry["IsLatest"]:
                        state = (entry["ETag"], entry["Size"]) if "ETag" in entry else GONE
                        modified = _seconds(entry["LastModified"])
                        found.append(Version(entry["VersionId"], modified, state == GONE, state))
        except ClientError as error:
            if code(error) in UNSUPPORTED | DENIED:
                return []
            raise
        return sorted(found, key=lambda version: version.modified, reverse=True)

    def head(self, key: str) -> State | None:
        """Return an object's ETag and size; None if it is not there."""
        try:
            answer = self.client.head_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            if code(error) in MISSING:
                return None
            raise
        return answer["ETag"], answer["ContentLength"]

    def move_aside(self, one: Object, checkpoint: str) -> bool:
        """Move an object aside; False if it has gone or changed meanwhile. May be cut off anywhere and repeated."""
        target = f"{self.aside}{checkpoint}/{one.key.removeprefix(self.prefix)}"
        there = self.head(target)
        if there is not None and there != one.state:
            target = (
                f"{target}~{one.modified:.0f}"  # an earlier restore of this checkpoint has put another there
            )
            there = self.head(target)
        if there != one.state:
            try:
                self.copy(one.key, target, one.size, CopySourceIfMatch=one.etag)
            except ClientError as error:
                if code(error) in MISSING | CHANGED:
                    return False
                raise
            there = self.head(target)
        if there is None or there[1] != one.size:
            raise StepError(
                f"the copy of {self.url(one.key)} at {self.url(target)} is not whole; nothing was deleted"
            )
        try:
            self._delete(one.key, IfMatch=one.etag)
        except ClientError as error:
            if code(error) in CHANGED:
                return False
            if code(error) not in UNSUPPORTED:
                raise
            self._delete(one.key)
        return True

    def copy(self, key: str, target: str, size: int, version: str | None = None, **condition: str) -> None:
        """Copy within the bucket, with all that belongs to the object."""
        source = {"Bucket": self.bucket, "Key": key} | ({"VersionId": version} if version else {})
        if size <= COPY_BYTES:
            self.client.copy_object(Bucket=self.bucket, Key=target, CopySource=source, **condition)
        else:
            self.client.copy(
                source,
                self.bucket,
                target,
                ExtraArgs=condition or None,
                Config=TransferConfig(use_threads=False),
            )

    def put(self, key: str, body: bytes) -> None:
        """Write an object of this hook's own."""
        self.client.put_object(Bucket=self.bucket, Key=key, Body=body)

    def get(self, key: str) -> bytes:
        """Read one."""
        return bytes(self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read())

    def _delete(self, key: str, **condition: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=key, **condition)

    def trim(self, newest: str, kept: set[str]) -> int:
        """Delete this hook's own objects older than `newest`, but for those of these names; return how many."""
        entries = list(self._entries(f"{newest.rpartition('/')[0]}/"))
        since = next((entry["LastModified"] for entry in entries if entry["Key"] == newest), None)
        old = [
            entry["Key"]
            for entry in entries
            if since and entry["LastModified"] < since and entry["Key"].rpartition("/")[2] not in kept
        ]
        for key in old:
            self._delete(key)
        return len(old)


def _seconds(moment: datetime) -> float:
    return moment.timestamp()


def code(error: ClientError) -> str:
    """Return the server's word for what is wrong."""
    return str(error.response.get("Error", {}).get("Code", ""))
