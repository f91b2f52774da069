"""Every store test that takes ``place`` runs over a directory and over a real S3 server."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from storekit import Place, key_file

from ckptrun.store import keys

if TYPE_CHECKING:
    from pathlib import Path

    from support.s3 import S3Server

    from ckptrun.store.repository import KeySource

_prefixes = itertools.count()


@pytest.fixture(params=["file", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    if request.param == "file":
        return Place(f"file://{tmp_path}/store", None, tmp_path / "store")
    server: S3Server = request.getfixturevalue("s3_server")
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    return Place(f"{server.url}/test-{next(_prefixes)}", server.endpoint)


@pytest.fixture
def directory(tmp_path: Path) -> Place:
    return Place(f"file://{tmp_path}/store", None, tmp_path / "store")


@pytest.fixture(params=["plain", "encrypted"])
def key(request: pytest.FixtureRequest, tmp_path: Path) -> KeySource | None:
    return None if request.param == "plain" else key_file(tmp_path)


@pytest.fixture
def quick_passphrases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have new passphrases stretched a little only; how much is in the store, for whoever opens it."""
    monkeypatch.setattr(keys, "SCRYPT_N", 1 << 10)
