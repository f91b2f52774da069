"""An S3-compatible bucket as a store: the only importer of boto3, which is slow to import. Made by `open_backend`.

It must not know what the objects mean.
"""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)

from ckptrun.errors import (
    PreconditionError,
    StoreError,
    StoreFullError,
    StoreRefusedError,
    StoreUnreachableError,
)
from ckptrun.store.backend import MissingError, Versioned

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CONNECT_SECONDS = 5
READ_SECONDS = 20
ATTEMPTS = 3
CONNECTIONS = 16
_CHECK = "check the endpoint, the network and the bucket's name, or use another --store"


class _BeyondEndError(StoreError):
    """A range that begins past the end of its object."""


_ROOM = "make room, keep fewer checkpoints (--keep) or use another --store"
_ANSWERS: tuple[tuple[set[str], type[StoreError], str], ...] = (
    ({"InvalidRange", "416"}, _BeyondEndError, ""),
    ({"NoSuchBucket"}, StoreRefusedError, "create the bucket, or correct --store"),
    ({"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}, PreconditionError, ""),
    ({"404", "NoSuchKey", "NotFound"}, MissingError, ""),
    ({"507", "InsufficientStorage", "QuotaExceeded", "XMinioStorageFull"}, StoreFullError, _ROOM),
    ({"429", "RequestTimeout", "SlowDown", "TooManyRequests", "ExpiredToken"}, StoreUnreachableError, _CHECK),
)
"""S3's answers, by code or status, the first that fits; the class and the next step they become."""


class S3Backend:
    """Objects in a bucket; see `Backend`.

    Args:
        bucket: its name.
        prefix: before every key; may be empty.
        url: as the user named it.
        endpoint_url: of an S3-compatible server; None is AWS.

    Raises:
        StoreRefusedError: the client cannot be made of what is configured.
    """

    def __init__(self, bucket: str, prefix: str, url: str, endpoint_url: str | None) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._url = url
        self._endpoint = endpoint_url
        config = Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
            max_pool_connections=CONNECTIONS,
            request_checksum_calculation="when_required",  # some S3-compatible stores know no other
            response_checksum_validation="when_required",
            s3={"addressing_style": "path"} if endpoint_url else {},
        )
        with self._errors("open", ""):
            self._client: Any = boto3.session.Session().client("s3", endpoint_url=endpoint_url, config=config)

    @property
    def url(self) -> str:
        """The store as the user named it."""
        return self._url

    def where(self, name: str) -> str:
        """Return the URL of an object."""
        return f"s3://{self._bucket}/{self._prefix}{name}"

    def prepare(self) -> None:
        """Do nothing: buckets are not made by ckptrun."""

    def put_if_absent(self, name: str, *pieces: bytes | memoryview) -> None:
        """Create an object; see `Backend`."""
        with self._errors("write", name):
            self._client.put_object(**self._at(name), Body=_Body(pieces), IfNoneMatch="*")

    def get(self, name: str) -> bytes:
        """Return a whole object; see `Backend`."""
        return self._get(name)[0]

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Return bytes of an object; see `Backend`."""
        try:
            return self._get(name, Range=f"bytes={offset}-{offset + length - 1}")[0]
        except _BeyondEndError:
            return b""

    def delete(self, name: str) -> None:
        """Remove an object; see `Backend`."""
        with self._errors("delete", name), contextlib.suppress(MissingError):
            self._client.delete_object(**self._at(name))

    def names(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield names and sizes; see `Backend`."""
        for page in self._pages(f"{prefix}/"):
            for entry in page.get("Contents", ()):
                if not entry["Key"].endswith("/"):  # some servers list folders as empty objects
                    yield entry["Key"].removeprefix(self._prefix), entry["Size"]

    def folders(self) -> Iterator[str]:
        """Yield the first parts of all names; see `Backend`."""
        for page in self._pages(""):
            for entry in page.get("CommonPrefixes", ()):
                yield entry["Prefix"].removeprefix(self._prefix).rstrip("/")

    def read(self, name: str) -> Iterator[Versioned]:
        """Yield the object, with its ETag; see `Backend`."""
        try:
            yield Versioned(*self._get(name))
        except MissingError:
            return

    def replace(self, name: str, data: bytes, expected: str | None) -> str:
        """Put on condition of the ETag; see `Backend`."""
        condition = {"IfNoneMatch": "*"} if expected is None else {"IfMatch": expected}
        try:
            with self._errors("write", name):
                return str(self._client.put_object(**self._at(name), Body=data, **condition)["ETag"])
        except MissingError as error:  # If-Match on an object that is gone
            raise PreconditionError(f"{self.where(name)} was removed by someone else") from error

    def discard(self, name: str) -> None:
        """Remove the object; see `Backend`."""
        self.delete(name)

    def sweep(self, folder: str) -> None:
        """Do nothing: an interrupted upload leaves no object."""

    def _at(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": f"{self._prefix}{name}"}

    def _get(self, name: str, **how: str) -> tuple[bytes, str]:
        with self._errors("read", name):
            answer = self._client.get_object(**self._at(name), **how)
            return answer["Body"].read(), str(answer["ETag"])

    def _pages(self, prefix: str) -> Iterator[dict[str, Any]]:
        with self._errors("list", prefix):
            paginator = self._client.get_paginator("list_objects_v2")
            yield from paginator.paginate(
                Bucket=self._bucket, Prefix=f"{self._prefix}{prefix}", Delimiter="/"
            )

    @contextlib.contextmanager
    def _errors(self, verb: str, name: str) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            raise self._answered(verb, name, error) from error
        except (NoCredentialsError, PartialCredentialsError, ProfileNotFound) as error:
            raise StoreRefusedError(
                f"cannot {verb} {self._named(name)}: {error}",
                hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
            ) from error
        except (BotoCoreError, OSError) as error:
            raise StoreUnreachableError(f"cannot {verb} {self._named(name)}: {error}", hint=_CHECK) from error
        except ValueError as error:  # boto3's word for an endpoint that is no URL
            raise StoreRefusedError(f"cannot {verb} {self._named(name)}: {error}", hint=_CHECK) from error

    def _answered(self, verb: str, name: str, error: ClientError) -> StoreError:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = str(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
        cause = f"cannot {verb} {self._named(name)}: {code or status} {error.response['Error'].get('Message', '')}"
        for known, kind, hint in _ANSWERS:
            if known & {code, status}:
                return kind(cause, hint=hint)
        if status.startswith("5"):
            return StoreUnreachableError(cause, hint=_CHECK)
        return StoreRefusedError(
            cause, hint="check the credentials and their rights on this bucket and prefix"
        )

    def _named(self, name: str) -> str:
        at = f" at {self._endpoint}" if self._endpoint else ""
        return f"{self.where(name)}{at}"


class _Body(io.RawIOBase):
    """Bytes as a file that botocore can read, measure and rewind: a pack of 32 MiB is not copied to be sent."""

    def __init__(self, pieces: Sequence[bytes | memoryview]) -> None:
        super().__init__()
        self._pieces = [memoryview(piece) for piece in pieces]
        self._size = sum(map(len, self._pieces))
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = min(max(base + offset, 0), self._size)
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        offset = self._at
        for piece in self._pieces:
            if offset < len(piece):
                count = min(len(buffer), len(piece) - offset)
                buffer[:count] = piece[offset : offset + count]
                self._at += count
                return count
            offset -= len(piece)
        return 0
