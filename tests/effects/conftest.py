"""The servers that ledgers live on, and every kind of ledger."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING

import pytest
from support.postgres import PostgresServer, postgres_server
from support.redis import RedisServer, redis_server

from ckptrun.effects.ledger import open_ledger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.charging import Charging

    from ckptrun.effects.ledger import Ledger

__all__ = ["postgres_server", "redis_server"]

_lineages = itertools.count()


@dataclasses.dataclass
class Place:
    """Where ledgers of one test live; each `open` is another run's."""

    url: str
    server: PostgresServer | RedisServer | None = None
    lineage: str = "train"

    def open(self, lineage: str = "") -> Ledger:
        return open_ledger(self.url, lineage or self.lineage)


@pytest.fixture(params=["sqlite", "postgresql", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "sqlite":
        yield Place(f"sqlite://{tmp_path}/effects.sqlite")
        return
    server = request.getfixturevalue("postgres_server" if request.param == "postgresql" else "redis_server")
    lineage = f"train-{next(_lineages)}"
    # one database for all: lineages are told apart by their names
    yield Place(server.database() if request.param == "postgresql" else server.url, server, lineage)


@pytest.fixture
def charging() -> Iterator[Charging]:
    from support.charging import Charging  # noqa: PLC0415 - slow to import, for workers that do not run it

    service = Charging()
    yield service
    service.close()
