"""A real PostgreSQL server on loopback, for any test: ``with PostgresServer() as server: ... server.database()``.

It dies with the tests, even when they are killed. It cannot run as root: root's runs as ``postgres`` or ``nobody``.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.ports import free_ports
from support.processes import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Self

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
_SETTINGS = {  # what a test's server writes need not outlive the machine
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "60",
    "listen_addresses": "127.0.0.1",
    "autovacuum": "off",
    "jit": "off",
}


class PostgresServer:
    """A server of its own, with superuser ``tester`` and no password.

    Raises:
        pytest.skip.Exception: PostgreSQL is not installed.
    """

    def __init__(self) -> None:
        self._programs = programs()
        self._owner = _owner()
        # not pytest's folder: that is root's alone, and the server is not root
        self._folder = Path(tempfile.mkdtemp(prefix="ckptrun-postgres-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._names = itertools.count(1)
        (self.port,) = free_ports(1)

    @property
    def url(self) -> str:
        """Of the database that is always there."""
        return f"postgresql://tester@127.0.0.1:{self.port}/postgres"

    def database(self) -> str:
        """Make an empty database and return its URL."""
        import psycopg  # noqa: PLC0415 - slow to import, for workers that do not run it

        name = f"test_{next(self._names)}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")  # type: ignore[arg-type]
        return f"postgresql://tester@127.0.0.1:{self.port}/{name}"

    def __enter__(self) -> Self:
        try:
            self._initialise()
            self.start()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop()
        self._remove()

    def start(self) -> None:
        """Start it, or start it again after `stop`, at the same port and with the same data."""
        import psycopg  # noqa: PLC0415 - slow to import, for workers that do not run it

        settings = [word for name, value in _SETTINGS.items() for word in ("-c", f"{name}={value}")]
        argv = [
            str(self._programs / "postgres"),
            *("-D", str(self._folder / "data"), "-p", str(self.port), "-k", str(self._folder)),
            *settings,
        ]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                preexec_fn=self._become(),  # noqa: PLW1509 - four system calls, resolved before
            )
        deadline = time.monotonic() + PATIENCE
        while True:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL does not start:\n{self._log()}")
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
            except psycopg.OperationalError:
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """End it at once, as a crash would."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.send_signal(signal.SIGQUIT)
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _initialise(self) -> None:
        if self._owner:
            os.chown(self._folder, *self._owner)
        argv = [str(self._programs / "initdb"), "-D", str(self._folder / "data"), "-U", "tester"]
        argv += ["--auth=trust", "--no-sync", "--no-locale", "--encoding=UTF8"]
        done = subprocess.run(argv, capture_output=True, cwd="/", preexec_fn=self._become(), check=False)
        if done.returncode:
            raise RuntimeError(f"initdb failed:\n{done.stderr.decode(errors='replace')[-2000:]}")

    def _become(self) -> Callable[[], None]:
        owner = self._owner

        def become() -> None:
            if owner:
                os.setgroups([])
                os.setgid(owner[1])
                os.setuid(owner[0])
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)  # last: a change of identity clears it

        return become

    def _log(self) -> str:
        with contextlib.suppress(OSError):
            return (self._folder / "server.log").read_text(errors="replace")[-2000:]
        return ""

    def _remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def programs() -> Path:
    """Return the folder of ``initdb`` and ``postgres``: on PATH, or where Debian puts the newest."""
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        pytest.skip("no PostgreSQL server: apt-get install postgresql")
    return found[-1].parent


def _owner() -> tuple[int, int] | None:
    """Return whom root runs the server as; None if this is not root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
    return 65534, 65534


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for the session; `PostgresServer.database` gives a test one of its own."""
    with PostgresServer() as server:
        yield server
