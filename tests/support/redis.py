"""A real Redis (or Valkey) server on loopback, for any test: ``with RedisServer(folder) as server: ... server.url``.

It dies with the tests, even when they are killed.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from support.ports import free_ports
from support.processes import PATIENCE, die_with_parent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import Self

DATABASES = 1000


class RedisServer:
    """A server of its own that keeps what it acknowledged.

    Args:
        folder: for its data; the caller's to remove.
        options: more of its settings, by name.

    Raises:
        pytest.skip.Exception: neither Redis nor Valkey is installed.
    """

    def __init__(self, folder: Path, **options: str) -> None:
        self._program = program()
        self._folder = folder
        self._options = {"appendonly": "yes", "appendfsync": "always", "save": "", **options}
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        (self.port,) = free_ports(1)

    @property
    def url(self) -> str:
        """Of database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    def database(self) -> str:
        """Return the URL of a database that no other test has."""
        return f"redis://127.0.0.1:{self.port}/{next(self._numbers)}"

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, or start it again after `stop`, at the same port and with the same data."""
        import redis  # noqa: PLC0415 - slow to import, for workers that do not run it

        options = {"port": str(self.port), "bind": "127.0.0.1", "databases": str(DATABASES), **self._options}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        log = self._folder / "server.log"
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [self._program, *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self._folder,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call, resolved before
            )
        deadline = time.monotonic() + PATIENCE
        client = redis.Redis.from_url(self.url, socket_timeout=5)
        while True:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"Redis does not start:\n{log.read_text(errors='replace')[-2000:]}")
            try:
                client.ping()
            except redis.RedisError:
                time.sleep(0.02)
            else:
                client.close()
                return

    def stop(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def program() -> str:
    """Return the server's program."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        pytest.skip("no Redis server: apt-get install redis-server")
    return found


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for the session; `RedisServer.database` gives a test one of its own."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server
