"""From a URL to a backend, and from a store to the names in it. Called by app."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from ckptrun.errors import ConfigurationError, UsageError
from ckptrun.store.localfs import LocalBackend

if TYPE_CHECKING:
    from ckptrun.store.backend import Backend

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def open_backend(url: str, *, s3_endpoint_url: str | None = None) -> Backend:
    """Return the backend of a store; nothing is read or written yet.

    Args:
        url: ``file:///absolute/path`` or ``s3://bucket/prefix``.
        s3_endpoint_url: of an S3-compatible server; None is AWS.

    Raises:
        UsageError: the URL is of another kind.
        StoreError: the client cannot be made.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        return LocalBackend(Path(unquote(parts.path)), url)
    if parts.scheme == "s3" and parts.netloc:
        from ckptrun.store.s3 import S3Backend  # noqa: PLC0415 - boto3 is slow to import; directories must not pay

        return S3Backend(parts.netloc, parts.path.strip("/"), url, s3_endpoint_url)
    raise UsageError(f"{url!r} is not a store", hint="use file:///absolute/path or s3://bucket/prefix")


def list_lineages(backend: Backend) -> list[str]:
    """Return the names of the lineages in a store, sorted; StoreError."""
    return sorted(name for name in backend.folders() if _NAME.fullmatch(name))


def check_name(name: str) -> str:
    """Return a lineage's name if it is allowed.

    Raises:
        ConfigurationError: it is not.
    """
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} is not a lineage's name",
            hint="use letters, digits and ._- only, at most 100, and begin with a letter or digit",
        )
    return name
