"""gunicorn: a master and two workers behind one listening socket; every request is a connection of its own.

A worker logs a request after it has answered it, and the other worker may be faster with the next one's line: the
result has the log's lines sorted.
"""

from __future__ import annotations

import contextlib
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


def ended(server: subprocess.Popen[bytes]) -> int:
    """Ask the master to end until it does, and return its exit code.

    It waits for signals in `SimpleQueue.get(timeout=1)`, which before Python 3.13 waits without end once it has been
    interrupted and its time is over: a signal that another thread takes then goes unheard (docs/design/objects.md).
    """
    for _ in range(3):
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return server.wait(20)
    raise TimeoutError("the master does not end")


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
    code = ended(server)
    report(answer, code, sorted(Path("access.log").read_text(encoding="ascii").splitlines()))


if __name__ == "__main__":
    main()
