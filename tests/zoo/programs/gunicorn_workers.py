"""gunicorn: a master and two workers behind one listening socket; every request is a connection of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pace import report, sha, steps

if TYPE_CHECKING:
    from collections.abc import Callable


def app(environment: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
    """Answer with a digest of the path."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [sha(environment["PATH_INFO"]).encode()]


def asked(url: str) -> bytes:
    """Ask until somebody answers: clients of restarted servers do."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return answer.read()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    server = subprocess.Popen(
        [
            Path(sys.executable).with_name("gunicorn"),
            *(
                "--workers",
                "2",
                "--bind",
                address,
                "--log-level",
                "warning",
                "--access-logfile",
                "access.log",
            ),
            *("--access-logformat", "%(m)s %(U)s %(s)s", "gunicorn_workers:app"),
        ],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    answer = b""
    for step in steps(80):
        answer = asked(f"http://{address}/{step}/{answer.decode()}")
    server.terminate()
    report(answer, server.wait(60))


if __name__ == "__main__":
    main()
